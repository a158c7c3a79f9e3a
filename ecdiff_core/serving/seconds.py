"""What a model call takes on either machine at batch 1, measured where nothing else runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ecdiff_core.models.devices import synchronize
from ecdiff_core.serving.link import Spread

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

CALLS = 5
"""That are timed of each operation, after one that warms up."""
PROMPT = ""
"""Only its length could matter, and tokenizers pad."""
Timings = Mapping[str, Spread]
"""Seconds by operation: ``cloud_call``, ``encode``, ``edge_call``, ``decode``."""


def cloud_timings(pipe: ECDiffPipeline) -> Timings:
    """Of the cloud's machine: ``encode`` and ``cloud_call``, both with guidance."""
    begun = pipe.prepare([PROMPT], generator=torch.Generator().manual_seed(0))
    cloud, latents = pipe.bind_cloud(begun.conditioning), begun.start.latents
    timestep = begun.start.scheduler.timesteps[0]
    return _timed(
        pipe, {"encode": lambda: pipe.encode([PROMPT]), "cloud_call": lambda: cloud(latents, timestep)}
    )


@torch.no_grad()
def _timed(pipe: ECDiffPipeline, operations: Mapping[str, Callable[[], object]]) -> Timings:
    found = {}
    for name, operation in operations.items():
        seconds = []
        for _ in range(1 + CALLS):
            synchronize(pipe.device)
            began = time.perf_counter()
            operation()
            synchronize(pipe.device)
            seconds.append(time.perf_counter() - began)
        found[name] = Spread.of(seconds[1:])
    return found
