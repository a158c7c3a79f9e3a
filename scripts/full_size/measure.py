"""Seconds of calls, decodes and whole generations of one pair, everything taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from ecdiff_core import ECDiffParams, ECDiffPipeline, TunedConfig
from ecdiff_core.models.devices import synchronize
from ecdiff_core.models.pair import Pair
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.link import Link

CALLS_IN_A_ROW = 5
"""As in a generation, where one call follows the other without waiting for the device."""
TIMESTEP = 500
PROMPT = "a prompt that nothing reads"
ALONE = "cloud only"
"""The variant that speedups are over."""
VARIANTS = (ALONE, "edge only", "HybridSD k=10", "HybridSD k=25", "EC-Diff")
"""The columns of the paper's Table 6; HybridSD's k counts edge steps."""


@dataclass(frozen=True)
class Generations:
    """One way to generate: what its steps do, and the seconds of each run, without any transfer."""

    plan: Plan
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest run, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True)
class Measured:
    """A pair, eager or compiled.

    Args:
        calls: seconds by ``cloud``, ``edge`` (one call at batch 1, guidance included) and ``decode``; calls
            are timed before every generation, decodes once a round.
        generations: by variant, as in ``variants``.
        transfer_seconds: of latents and embeddings, computed from a link; None without one.
    """

    calls: dict[str, tuple[float, ...]]
    generations: dict[str, Generations]
    transfer_seconds: float | None

    def call(self, name: str) -> float:
        """Median seconds."""
        return median(self.calls[name])


def variants(config: TunedConfig) -> dict[str, ECDiffParams]:
    """What each of ``VARIANTS`` does."""
    steps = config.sampling.num_inference_steps
    hybrids = [ECDiffParams.hybrid(steps - edge_steps) for edge_steps in (10, 25)]
    some = (ECDiffParams.cloud_only(steps), ECDiffParams.edge_only(), *hybrids, config.params)
    return dict(zip(VARIANTS, some, strict=True))


Operation = Callable[[], float]
"""Does something and answers with its seconds."""


@torch.no_grad()
def measure(
    pairs: dict[str, Pair], config: TunedConfig, repeats: int, link: Link | None, names: Sequence[str]
) -> dict[str, Measured]:
    """Time each of ``pairs`` (``eager``, ``compiled``) in ``repeats`` rounds, once all is warm.

    Args:
        names: the variants to generate by, ``EC-Diff`` among them.
    """
    pipes = {
        mode: {
            name: ECDiffPipeline(pair, replace(config, params=params))
            for name, params in variants(config).items()
            if name in names
        }
        for mode, pair in pairs.items()
    }
    operations: dict[tuple[str, str], Operation] = {}
    order: list[tuple[str, str]] = []
    transfers: dict[str, float | None] = {}
    for mode, own in pipes.items():
        calls, values = _calls(own["EC-Diff"])
        transfers[mode] = None if link is None else link.transfer_seconds(values)
        every = calls | {name: _generation(pipe) for name, pipe in own.items()}
        operations |= {(mode, name): operation for name, operation in every.items()}
        order += [(mode, "decode")]
        order += [(mode, name) for way in own for name in ("cloud", "edge", way)]
        for name in (*calls, "EC-Diff"):  # whose generation goes through all that the others do
            every[name]()
    seconds = _in_turns(operations, order, repeats)
    return {
        mode: Measured(
            {name: seconds[mode, name] for name in ("cloud", "edge", "decode")},
            {name: Generations(pipe.plan(), seconds[mode, name]) for name, pipe in own.items()},
            transfers[mode],
        )
        for mode, own in pipes.items()
    }


def _in_turns(
    operations: dict[tuple[str, str], Operation], order: list[tuple[str, str]], repeats: int
) -> dict[tuple[str, str], tuple[float, ...]]:
    """``order`` once a round, each round begun at another place, so that a drift favours nothing."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in operations}
    for turn in range(repeats):
        first = turn * len(order) // repeats
        for key in order[first:] + order[:first]:
            seconds[key].append(operations[key]())
    return {key: tuple(values) for key, values in seconds.items()}


def _calls(pipe: ECDiffPipeline) -> tuple[dict[str, Operation], int]:
    """A cloud call, an edge call and a decode at batch 1; and how many numbers a handoff sends."""
    family = pipe.pair.family
    conditioning = pipe.encode([PROMPT])
    latents = family.initial_latents(1, pipe.size, pipe.scheduler, torch.Generator().manual_seed(0))
    timestep = torch.tensor(TIMESTEP, device=latents.device)
    cloud = family.bind(pipe.pair.cloud, conditioning, pipe.guidance)
    edge = family.bind(pipe.pair.edge, conditioning, pipe.guidance)

    def timed(operation: Callable[[], object], times: int) -> Operation:
        def run() -> float:
            synchronize(latents.device)
            started = time.perf_counter()
            for _ in range(times):
                operation()
            synchronize(latents.device)
            return (time.perf_counter() - started) / times

        return run

    operations = {
        "cloud": timed(lambda: cloud(latents, timestep), CALLS_IN_A_ROW),
        "edge": timed(lambda: edge(latents, timestep), CALLS_IN_A_ROW),
        "decode": timed(lambda: family.decode(latents), 1),
    }
    return operations, family.payload_values(conditioning, latents)


def _generation(pipe: ECDiffPipeline) -> Operation:
    def run() -> float:
        return pipe(PROMPT, generator=torch.Generator().manual_seed(0)).seconds.total

    return run
