"""What a model call costs on this machine, and from it what any plan costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ecdiff_core.batch_size import PROMPT
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.memory import out_of_memory_as_error
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.serving.link_meter import Spread
from ecdiff_tune.evaluation.link import Link, MeasuredLink
from ecdiff_tune.evaluation.machine_conditions import Conditions

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.sampling.batching import Conditioning

WARM_UP_CALLS = 3
OPERATIONS = ("cloud_call", "edge_call", "encode", "decode")
"""Whose seconds a profile holds."""
CALLS = WARM_UP_CALLS + 15
"""Of either model and of the decoder, that ``measure`` makes; those after the warm-up are timed."""
WIDE_SPREAD = 0.2
"""Of quartiles over the median. The median of so few calls is then off by about 5%, which moves the objective
by about as much as its 95% interval over 100 prompts is wide."""


class LatencyError(ECDiffError):
    """A latency profile cannot be used."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one operation at batch 1: median and quartiles over the timed calls."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Between the quartiles, as a share of the median: near 0 on an idle machine."""
        return (self.high - self.low) / self.median if self.median > 0 else 0.0


@dataclass(frozen=True)
class LatencyProfile:
    """Seconds of a cloud call, an edge call (both with guidance), encoding, decoding, and the transfer.

    Args:
        transfer_seconds: of a handoff that carries latents and embeddings.
        payload_values: the half-precision numbers that it carries; this and ``conditions`` are None in files
            that are older than them.
        tensor_values: those of one tensor of the latents' shape; None in older files.
        tensor_seconds: to send one such tensor more.
        crossing_seconds: to ask the cloud once more, whatever is sent: there and back, a round trip.
        link: as it was measured; None where it was given.
        sources: where each number is from, by its name; None for all from one machine.
    """

    cloud_call: Timing
    edge_call: Timing
    encode: Timing
    decode: Timing
    transfer_seconds: float
    payload_values: int | None = None
    conditions: Conditions | None = None
    tensor_values: int | None = None
    tensor_seconds: float = 0.0
    crossing_seconds: float = 0.0
    link: MeasuredLink | None = None
    sources: Mapping[str, str] | None = None

    def spread_note(self, path: Path, given: str | None = None) -> str:
        """A line where a model's calls varied more than they do on an idle machine; else empty.

        Args:
            path: of the study's own latency.json.
            given: the file that it was copied from; None where the study measured it.
        """
        calls = {"cloud call": self.cloud_call, "edge call": self.edge_call}
        wide = [
            f"{name} {one.low * 1e3:.3g} … {one.high * 1e3:.3g} ms between quartiles"
            for name, one in calls.items()
            if one.spread > WIDE_SPREAD
        ]
        if not wide:
            return ""
        advice = (
            f"Delete {path} to measure again, or give latency=FILE."
            if given is None
            else f"Measure again where {given} is from; then delete {path} and give the new file."
        )
        return (
            f"the latency profile varies ({', '.join(wide)}): the machine was busy, and efficiency and "
            f"objective are as uncertain. {advice}"
        )

    def seconds(self, plan: Plan) -> float:
        """Estimated seconds of a generation by ``plan``, the transfer included where it hands over."""
        calls = plan.cloud_calls * self.cloud_call.median + plan.edge_calls * self.edge_call.median
        return self.encode.median + calls + self.decode.median + self.transfer(plan)

    def transfer(self, plan: Plan) -> float:
        """Seconds that a generation by ``plan`` spends on the link: round trips and what crosses it."""
        if not plan.hands_over:
            return 0.0
        again = (plan.exchanges - 1) * self.crossing_seconds
        return self.transfer_seconds + again + (plan.tensors_sent - 1) * self.tensor_seconds

    def over(self, link: Link) -> LatencyProfile:
        """The same with another link; of one that is no machine apart nothing is sent.

        Expects ``payload_values``, and where plans cross more than once ``tensor_values``.
        """
        return replace(
            self,
            transfer_seconds=link.transfer_seconds(self.payload_values or 0),
            tensor_seconds=link.transfer_seconds(self.tensor_values or 0, crossings=0),
            crossing_seconds=link.transfer_seconds(0),
            link=None,
        )

    def alone(self, num_steps: int) -> tuple[float, float]:
        """t_cloud and t_edge of eq. 10: seconds of a generation by the cloud alone and by the edge alone."""
        fixed = self.encode.median + self.decode.median
        return fixed + num_steps * self.cloud_call.median, fixed + num_steps * self.edge_call.median

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> LatencyProfile:
        """From what ``asdict`` made of it."""
        tree = dict(tree)
        read: dict[str, Any] = {
            name: None if (count := tree.pop(name, None)) is None else int(count)
            for name in ("payload_values", "tensor_values")
        }
        read |= {name: float(tree.pop(name)) for name in list(tree) if name.endswith("_seconds")}
        under, link = tree.pop("conditions", None), tree.pop("link", None)
        read["conditions"] = None if under is None else Conditions(**under)
        read["link"] = None if link is None else _measured_link(link)
        read["sources"] = tree.pop("sources", None)
        read |= {name: Timing(**values) for name, values in tree.items()}
        return cls(**read)

    @classmethod
    def load(cls, path: Path) -> LatencyProfile:
        """Read what ``save`` wrote.

        Raises:
            LatencyError: the file cannot be read, or is damaged.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            line = f"Cannot read the latency profile {path}: {error.strerror}."
            raise LatencyError(line, key=str(path)) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LatencyError(
                f"{path} is damaged, or no latency profile.",
                key=str(path),
                advice="One in a study's own folder may be deleted: it is measured again.",
            ) from error


def _measured_link(tree: Mapping[str, Any]) -> MeasuredLink:
    spreads = {name: Spread(**values) for name, values in tree.items() if name != "url"}
    return MeasuredLink(url=tree["url"], **spreads)


def measure(
    pipe: ECDiffPipeline, link: Link, *, take_turns: bool = True, known: Mapping[str, Timing] | None = None
) -> LatencyProfile:
    """Time the pair at batch 1: warmed up, synchronised, the operations taking turns.

    With ``take_turns=False`` one operation after the other: offload would move models at every turn, which a
    generation does only where it goes over from one to the next.

    Args:
        known: operations by name that another machine does, with its seconds; they are not timed here.

    Raises:
        OutOfMemoryError: a single prompt does not fit.
    """
    family = pipe.pair.family
    conditioning, latents = _begun(pipe)
    timestep = torch.tensor(500, device=latents.device)
    cloud = family.bind(pipe.pair.cloud, conditioning, pipe.guidance)
    edge = family.bind(pipe.pair.edge, conditioning, pipe.guidance)
    known = known or {}
    every: dict[str, Callable[[], object]] = {
        "cloud_call": lambda: cloud(latents, timestep),
        "edge_call": lambda: edge(latents, timestep),
        "encode": lambda: pipe.encode([PROMPT]),
        "decode": lambda: family.decode(latents),
    }
    operations = {name: every[name] for name in OPERATIONS if name not in known}
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    turns = range(CALLS)
    by_turn = [(turn, name) for turn in turns for name in operations]
    by_name = [(turn, name) for name in operations for turn in turns]
    with torch.no_grad(), out_of_memory_as_error():
        for turn, name in by_turn if take_turns else by_name:
            synchronize(latents.device)
            started = time.perf_counter()
            operations[name]()
            synchronize(latents.device)
            if turn >= WARM_UP_CALLS:
                seconds[name].append(time.perf_counter() - started)
    timings: dict[str, Any] = {**known, **{name: _timing(values) for name, values in seconds.items()}}
    payload = family.payload_values(conditioning, latents)
    return LatencyProfile(
        **timings,
        transfer_seconds=0.0,
        payload_values=payload,
        conditions=Conditions.of(pipe),
        tensor_values=latents.numel(),
    ).over(link)


def _begun(pipe: ECDiffPipeline) -> tuple[Conditioning, Tensor]:
    """What goes over the link with one prompt: as these two models want it encoded, and latents."""
    family, generator = pipe.pair.family, torch.Generator().manual_seed(0)
    return pipe.encode([PROMPT]), family.initial_latents(1, pipe.size, family.scheduler, generator)


def of_this_pair(profile: LatencyProfile, pipe: ECDiffPipeline, link: Link, source: str) -> LatencyProfile:
    """Another study's or machine's profile with the transfer over ``link``.

    Raises:
        LatencyError: the handoff of its pair carries another number of values than this pair's.
    """
    conditioning, latents = _begun(pipe)
    payload = pipe.pair.family.payload_values(conditioning, latents)
    check_payload(profile, payload, source)
    return replace(profile, payload_values=payload, tensor_values=latents.numel()).over(link)


def check_payload(profile: LatencyProfile, payload: int | None, source: str) -> None:
    """Refuse a profile from the file ``source`` whose handoff carries more or fewer values than this pair's.

    Raises:
        LatencyError: it does.
    """
    if payload and profile.payload_values and payload != profile.payload_values:
        raise LatencyError(
            f"{source} is of another pair or size: its handoff carries {profile.payload_values:,} values, "
            f"this study's {payload:,}.",
            key=source,
            got=profile.payload_values,
            expected=str(payload),
        )


def _timing(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high)
