"""The cloud's part of a generation as jobs for the worker."""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ecdiff_core.errors import NonFiniteLatentsError
from ecdiff_core.io.tensor_file import TensorSpec
from ecdiff_core.methods.in_pair import check_one_machine
from ecdiff_core.models.devices import get_dtype
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.plan import Action, Mode
from ecdiff_core.sampling.sampler import Call, SamplerState, trajectory
from ecdiff_core.serving.engine import Engine, Steps
from ecdiff_core.serving.handoff_form import HandoffForm, facts_of, plan_facts
from ecdiff_core.serving.packet import Encoding, Form, write_packet
from ecdiff_core.serving.seconds import cloud_seconds
from ecdiff_core.serving.worker import Job


@dataclass(frozen=True)
class Asked:
    """An image that is asked for."""

    prompt: str
    negative_prompt: str | None
    seed: int
    mode: Mode


@dataclass(frozen=True)
class HandedOver:
    """The cloud's part of an image."""

    state: SamplerState
    conditioning: Conditioning
    packet: bytes


class CloudSide:
    """Jobs for one pipeline, whose edge may be elsewhere; ``facts`` are what requests are compared with.

    Raises:
        ParamsError: its config has a method.
    """

    def __init__(self, pipe: ECDiffPipeline) -> None:
        check_one_machine(pipe.config.method)
        self.pipe, self.facts = pipe, facts_of(pipe)
        self.form = lru_cache(lambda mode: HandoffForm(pipe, mode))
        """Of handoffs in a mode."""

    def engine(self, most: int, on_batch: Any) -> Engine:
        """What does the jobs' model calls."""
        pipe = self.pipe

        def answer(latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            return pipe.bind_cloud(conditioning)(latents, timestep)

        per_sample = pipe.pair.family.timestep_per_sample
        return Engine(answer, most, timestep_per_sample=per_sample, on_batch=on_batch)

    def handoff(self, asked: Asked, encoding: Encoding, seconds: float | None) -> Job:
        """The steps before the first edge step; results in a ``HandedOver``."""
        form, began = self.form(asked.mode), time.monotonic()
        conditionings: list[Conditioning] = []

        def begin() -> tuple[Steps, Conditioning]:
            steps, conditioning = self._begin(asked, form.step)
            conditionings.append(conditioning)
            return steps, conditioning

        def finish(state: SamplerState) -> HandedOver:
            _check_finite(state.latents, asked.mode)
            facts = {"seed": str(asked.seed), "seconds": f"{time.monotonic() - began:.6f}"}
            packet = form.write(state, conditionings[0], encoding, facts)
            return HandedOver(state, conditionings[0], packet)

        return Job(begin, finish, form.plan.until(form.step).cloud_calls, seconds)

    def image(self, asked: Asked, seconds: float | None) -> Job:
        """All steps by the cloud; results in a PNG."""
        plan, family = self.pipe.plan("cloud"), self.pipe.pair.family

        def finish(state: SamplerState) -> bytes:
            images = family.decode(state.latents)
            _check_finite(images, "cloud")
            out = io.BytesIO()
            family.to_pil(images)[0].save(out, format="PNG")
            return out.getvalue()

        return Job(lambda: self._begin(asked, plan.num_steps), finish, plan.cloud_calls, seconds)

    def noise_form(self, step: int) -> Form:
        """What the packet of a step's latents is to hold."""
        family, dtype = self.pipe.pair.family, get_dtype(self.pipe.config.sampling.dtype)
        shape = (1, *family.latents_shape(self.pipe.size))
        return Form({"latents": TensorSpec(dtype, shape)}, {"step": str(step)})

    def noise(self, conditioning: Conditioning, step: int, latents: Tensor, encoding: Encoding) -> Job:
        """One call at a step; results in the packet of the guided noise."""
        timestep = self.pipe.scheduler.timesteps[step]
        call = Call(step, Action.CLOUD, latents.to(self.pipe.device), timestep)

        def ask() -> Generator[Call, Tensor, Tensor]:
            return (yield call)

        def finish(noise: Tensor) -> bytes:
            return write_packet({"noise": noise}, {"step": str(step)}, encoding)

        return Job(lambda: (ask(), conditioning), finish, 1)

    def warm_up(self) -> dict[str, list[float]]:
        """A few encodings and calls, so that the first request waits for none; what they took."""
        _ = self.form("ecdiff").form
        return cloud_seconds(self.pipe)

    def _begin(self, asked: Asked, until: int) -> tuple[Steps, Conditioning]:
        pipe, negative = self.pipe, asked.negative_prompt
        begun = pipe.prepare(
            [asked.prompt],
            negative_prompts=None if negative is None else [negative],
            generator=torch.Generator().manual_seed(asked.seed),
        )
        plan = self.form(asked.mode).plan
        steps = trajectory(begun.start, plan, pipe.estimator, pipe.config.factors, until)
        return steps, begun.conditioning


class Sides:
    """The cloud's side of a config and of every row of its front, by the facts that a request brings."""

    def __init__(self, pipe: ECDiffPipeline) -> None:
        self.own = CloudSide(pipe)
        config = pipe.config
        self._rows = {_key(plan_facts(one)): one for one in map(config.of_row, config.front or ())}
        self._made = {_key(plan_facts(config)): self.own}

    def of(self, facts: Mapping[str, str]) -> CloudSide:
        """That of the row with these facts; the config's own for others, or for none."""
        key = _key({**plan_facts(self.own.pipe.config), **facts})
        if key not in self._made and key in self._rows:
            self._made[key] = CloudSide(ECDiffPipeline(self.own.pipe.pair, self._rows[key]))
        return self._made.get(key, self.own)


def _key(facts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(facts[name] for name in ("schedule", "alpha", "residual", "estimator"))


def _check_finite(tensor: Tensor, mode: str) -> None:
    if not tensor.isfinite().all():
        line, advice = f"The {mode} generation is not finite.", "Try dtype float32, or a smaller alpha."
        raise NonFiniteLatentsError(line, key="mode", got=mode, advice=advice)
