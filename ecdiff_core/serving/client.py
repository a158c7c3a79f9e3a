"""The edge's machine: asks a server for the cloud's part (``ecdiff_core.pipeline.Cloud``)."""

from __future__ import annotations

import math
import re
import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ecdiff_core.errors import CloudError, CloudUnavailableError, ParamsError
from ecdiff_core.io.tensor_file import TensorFileError, TensorSpec
from ecdiff_core.models.devices import get_dtype
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning, join, join_prompts
from ecdiff_core.sampling.plan import Mode
from ecdiff_core.sampling.sampler import Denoiser, SamplerState
from ecdiff_core.serving.deadline import Costs, choose
from ecdiff_core.serving.handoff_form import HandoffForm, facts_of
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.measure_link import measure_link
from ecdiff_core.serving.packet import (
    Encoding,
    Form,
    PacketError,
    check_encoding,
    read_packet,
    size_bytes,
    write_packet,
)
from ecdiff_core.serving.seconds import edge_timings
from ecdiff_core.serving.server_config import ServerConfig, read_config
from ecdiff_core.serving.side_by_side import side_by_side
from ecdiff_core.serving.transport import Answer, RefusedError, Retry, Transport
from ecdiff_core.tuned_pair import Prepared

T = TypeVar("T")
_SESSION, _NAME = "Ecdiff-Session", re.compile(r"[\w-]{16,64}", re.ASCII)
"""The header with a session's name, and what a name is."""
_FEW = 3
"""Measurements of the link, where somebody waits."""
_MOST_BYTES = 2**23
"""Of such a download; what the server gives at most."""
_HandedOver = tuple[SamplerState, Conditioning, str | None]
"""State, conditioning, and the name of the session where the plan asks for the cloud again."""


class RemoteCloud:
    """The cloud's part of a generation, by a server (``ecdiff serve``).

    Args:
        url: such as ``https://gpu.example:8000``.
        token: the server's; None where it has none.
        packet: how numbers travel: ``computed`` (bit for bit), ``float16`` or ``int8``.
        deadline_seconds: for the cloud's part of an image; a server that cannot meet it says so at once.
        retry: on 429, 503 and lost connections, on nothing else.
        verify: False accepts any certificate; a path is that of a PEM file with a certificate to trust.

    Raises:
        ParamsError: the URL is none, the PEM file cannot be used, or the deadline is out of range.

    >>> pipe = ECDiffPipeline.from_config(
    ...     "ecdiff.yaml", cloud=RemoteCloud("https://gpu.example:8000", token="…")
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        packet: Encoding = "computed",
        deadline_seconds: float | None = None,
        retry: Retry | None = None,
        verify: bool | str | Path = True,
    ) -> None:
        if deadline_seconds is not None and not 0 < deadline_seconds < math.inf:
            raise ParamsError(key="deadline_seconds", got=deadline_seconds, expected="> 0, and finite")
        self._encoding, self._deadline = check_encoding(packet), deadline_seconds
        self._http = Transport(url, token, retry or Retry(), verify)
        self.url, self.link = self._http.url, self._http.link
        self._form = lru_cache(HandoffForm)
        self._close = weakref.finalize(self, self._http.close)

    def close(self) -> None:
        """Close the connections; without it they are closed when nothing refers to this any more."""
        self._close()

    def begin(
        self,
        pipe: ECDiffPipeline,
        mode: Mode,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        seeds: Sequence[int],
    ) -> Prepared:
        """The cloud's part of each image, side by side.

        Raises:
            CloudError: the server refuses.
            CloudUnavailableError: it cannot be had.
        """

        def one(row: int) -> _HandedOver:
            negative = None if negative_prompts is None else negative_prompts[row]
            return self._hand_over(pipe, mode, prompts[row], negative, seeds[row])

        parts = side_by_side(one, range(len(prompts)))
        state = join([state for state, _, _ in parts])
        conditioning = join_prompts([prompt for _, prompt, _ in parts])
        sessions = [session for _, _, session in parts if session is not None]
        denoise = self._denoiser(pipe, mode, sessions, lambda row: one(row)[2]) if sessions else None
        return Prepared(state, conditioning, denoise)

    def config(self) -> ServerConfig:
        """What the server tells of itself; a round trip.

        Raises:
            CloudError: the server refuses, or is none of ``ecdiff serve`` of this version.
            CloudUnavailableError: it cannot be had.
        """
        began = time.perf_counter()
        answer = self._http.ask("GET", "/v1/config")
        self.link.trip(time.perf_counter() - began)
        return read_config(answer.content, self.url)

    def within(self, pipe: ECDiffPipeline, deadline: float) -> ECDiffPipeline:
        """The best config of the pipeline's front with which an image takes at most ``deadline`` seconds.

        Measures a few calls of the edge's model here, and the link by downloads as large as a packet; the
        server's seconds are those that it tells, of one image on an idle machine.

        Raises:
            ParamsError: no config of the front is so fast.
            CloudError, CloudUnavailableError: the server refuses, or cannot be had.
        """
        form = self._form(pipe, "ecdiff").form
        served = self.config().timings
        round_trip, mbps = self.measure(_FEW, min(_MOST_BYTES, size_bytes(form, self._encoding)))
        costs = Costs({**served, **edge_timings(pipe)}, round_trip, mbps, self._encoding)
        found = choose(pipe, costs, deadline)
        found.pipe.choice = str(found)
        return found.pipe

    def measure(self, repeats: int, size_bytes: int) -> tuple[Spread, Spread]:
        """Round trip in seconds, and megabits a second downwards (``measure_link``)."""
        return measure_link(self._http, repeats, size_bytes)

    def _hand_over(
        self, pipe: ECDiffPipeline, mode: Mode, prompt: str, negative: str | None, seed: int
    ) -> _HandedOver:
        form = self._form(pipe, mode)
        asked = {
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": seed,
            "mode": mode,
            "packet": self._encoding,
            "deadline_seconds": self._deadline,
            "config": facts_of(pipe),
        }

        def read(answer: Answer) -> _HandedOver:
            state, conditioning, _ = form.read(answer.content, self._encoding, {"seed": str(seed)})
            session = self._session(answer) if form.plan.later_cloud_steps else None
            return state, conditioning, session

        return self._ask_and_read("/v1/handoff", read, form.form.most_bytes, json=asked)

    def _session(self, answer: Answer) -> str:
        name = answer.headers.get(_SESSION)
        if name is None or not _NAME.fullmatch(name):
            raise CloudError(
                f"The answer of {self.url} names no session, which this plan comes back to.",
                key=_SESSION,
                got=name,
                expected="16 to 64 letters and digits",
                advice="Let what lies between pass the header on; give both machines one ecdiff.",
            )
        return name

    def _denoiser(
        self,
        pipe: ECDiffPipeline,
        mode: Mode,
        sessions: list[str],
        begin_again: Callable[[int], str | None],
    ) -> Denoiser:
        """The cloud's model for the rows of a batch, each with its session.

        Args:
            begin_again: hands a row over once more, and names its new session.
        """
        plan, timesteps = self._form(pipe, mode).plan, pipe.scheduler.timesteps
        numbers = {float(timesteps[step]): step for step in plan.later_cloud_steps}
        noise_dtype = pipe.pair.family.noise_dtype or get_dtype(pipe.config.sampling.dtype)

        def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
            step = numbers[float(timestep)]

            def one(row: int) -> Tensor:
                ask = partial(self._noise, step=step, latents=latents[row : row + 1], dtype=noise_dtype)
                try:
                    return ask(sessions[row])
                except RefusedError as error:
                    # The server was started anew, or it is another one behind the same address.
                    session = begin_again(row) if error.got == 404 else None
                    if session is None:
                        raise
                    sessions[row] = session
                    return ask(session)

            return torch.cat(side_by_side(one, range(len(sessions)))).to(latents.device)

        return denoise

    def _noise(self, session: str, step: int, latents: Tensor, dtype: torch.dtype) -> Tensor:
        facts = {"step": str(step)}
        body = write_packet({"latents": latents}, facts, self._encoding)
        form = Form({"noise": TensorSpec(dtype, tuple(latents.shape))}, facts)

        def read(answer: Answer) -> Tensor:
            return read_packet(answer.content, form, self._encoding)[0]["noise"]

        where = {"step": step, "packet": self._encoding}
        given = {"headers": {_SESSION: session}, "params": where, "content": body}
        return self._ask_and_read("/v1/noise", read, form.most_bytes, **given)

    def _ask_and_read(self, path: str, read: Callable[[Answer], T], most_bytes: int, **given: Any) -> T:
        """Ask, and read the answer; one that is damaged is asked for once more, and not worked for twice."""
        given["headers"] = {**given.get("headers", {}), "Idempotency-Key": secrets.token_hex(16)}
        for again in (True, False):
            try:
                return read(self._http.ask("POST", path, most_bytes, **given))
            except (PacketError, TensorFileError) as error:
                if again:
                    continue
                kind = CloudError if isinstance(error, PacketError) else CloudUnavailableError
                line = f"The answer of {self.url} is of no use: {error}"
                raise kind(line, key=self.url, got=error.got, expected=error.expected) from error
        raise AssertionError
