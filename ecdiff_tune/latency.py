"""What a model call costs on this machine, and from it what any plan costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ecdiff_core.devices import synchronize
from ecdiff_core.errors import ECDiffError
from ecdiff_core.files import write_text
from ecdiff_core.link import Link
from ecdiff_core.memory import out_of_memory_told
from ecdiff_core.plan import Plan

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

WARM_UP_CALLS = 3
CALLS = WARM_UP_CALLS + 15
"""Of either model and of the decoder, that ``measure`` makes; those after the warm-up are timed."""
PROMPT = "a photo of a red circle"
"""Only its length could matter, and tokenizers pad."""


class LatencyError(ECDiffError):
    """A latency profile cannot be used."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one operation at batch 1: median and quartiles over the timed calls."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyProfile:
    """Seconds of a cloud call, an edge call (both with guidance), encoding, decoding, and the transfer.

    ``payload_values`` are the half-precision numbers that the transfer carries; None in files that are older
    than it.
    """

    cloud_call: Timing
    edge_call: Timing
    encode: Timing
    decode: Timing
    transfer_seconds: float
    payload_values: int | None = None

    def seconds(self, plan: Plan) -> float:
        """Estimated seconds of a generation by ``plan``, the transfer included where it hands over."""
        calls = plan.cloud_calls * self.cloud_call.median + plan.edge_calls * self.edge_call.median
        transfer = self.transfer_seconds if plan.hands_over else 0.0
        return self.encode.median + calls + self.decode.median + transfer

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
        transfer, payload = float(tree.pop("transfer_seconds")), tree.pop("payload_values", None)
        if payload is not None:
            payload = int(payload)
        timings = {name: Timing(**values) for name, values in tree.items()}
        return cls(**timings, transfer_seconds=transfer, payload_values=payload)

    @classmethod
    def load(cls, path: Path) -> LatencyProfile:
        """Read what ``save`` wrote.

        Raises:
            LatencyError: the file cannot be read, or is damaged.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise LatencyError(f"Cannot read the latency profile {path}: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LatencyError(f"{path} is damaged. Delete it; it is measured again.") from error


def measure(pipe: ECDiffPipeline, link: Link, *, take_turns: bool = True) -> LatencyProfile:
    """Time the pair at batch 1: warmed up, synchronised, the operations taking turns.

    With ``take_turns=False`` one operation after the other: offload would move models at every turn, which a
    generation does only where it goes over from one to the next.

    Raises:
        OutOfMemoryError: a single prompt does not fit.
    """
    family = pipe.pair.family
    conditioning = pipe.encode([PROMPT])
    generator = torch.Generator().manual_seed(0)
    latents = family.initial_latents(1, pipe.size, family.scheduler, generator)
    timestep = torch.tensor(500, device=latents.device)
    cloud = family.bind(pipe.pair.cloud, conditioning, pipe.guidance)
    edge = family.bind(pipe.pair.edge, conditioning, pipe.guidance)
    operations: dict[str, Callable[[], object]] = {
        "cloud_call": lambda: cloud(latents, timestep),
        "edge_call": lambda: edge(latents, timestep),
        "encode": lambda: pipe.encode([PROMPT]),
        "decode": lambda: family.decode(latents),
    }
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    turns = range(CALLS)
    by_turn = [(turn, name) for turn in turns for name in operations]
    by_name = [(turn, name) for name in operations for turn in turns]
    with torch.no_grad(), out_of_memory_told():
        for turn, name in by_turn if take_turns else by_name:
            synchronize(latents.device)
            started = time.perf_counter()
            operations[name]()
            synchronize(latents.device)
            if turn >= WARM_UP_CALLS:
                seconds[name].append(time.perf_counter() - started)
    timings = {name: _timing(values) for name, values in seconds.items()}
    payload = family.payload_values(conditioning, latents)
    return LatencyProfile(**timings, transfer_seconds=link.transfer_seconds(payload), payload_values=payload)


def _timing(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high)
