"""What a model call takes on either machine at batch 1, measured where nothing else runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ecdiff_core.batch_size import PROMPT
from ecdiff_core.models.devices import get_dtype, synchronize
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.serving.link_meter import Spread

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

CALLS = 5
"""That are timed of each operation, after one that warms up."""
SERVED = ("cloud_call", "encode")
"""What the server does of an image."""
Timings = Mapping[str, Spread]
"""Seconds by operation: ``cloud_call``, ``encode``, ``edge_call``, ``decode``."""


def cloud_seconds(pipe: ECDiffPipeline) -> dict[str, list[float]]:
    """Of the cloud's machine: ``encode`` and ``cloud_call``, both with guidance."""
    begun = pipe.prepare([PROMPT], generator=torch.Generator().manual_seed(0))
    cloud, latents = pipe.bind_cloud(begun.conditioning), begun.start.latents
    timestep = begun.start.scheduler.timesteps[0]
    return _timed(
        pipe, {"encode": lambda: pipe.encode([PROMPT]), "cloud_call": lambda: cloud(latents, timestep)}
    )


def edge_timings(pipe: ECDiffPipeline) -> Timings:
    """Of the edge's machine, which has no text encoder: ``edge_call``, with guidance, and ``decode``."""
    family, dtype = pipe.pair.family, get_dtype(pipe.config.sampling.dtype)
    rows = 2 if pipe.is_guided else 1
    shapes = family.conditioning_shapes().items()
    empty = {name: torch.zeros((rows, *shape), dtype=dtype, device=pipe.device) for name, shape in shapes}
    _, edge = pipe.bind(Conditioning(empty, 1))
    latents = torch.randn((1, *family.latents_shape(pipe.size))).to(pipe.device, dtype)
    timestep = pipe.scheduler.timesteps[0].to(pipe.device)
    operations = {"edge_call": lambda: edge(latents, timestep), "decode": lambda: family.decode(latents)}
    return {name: Spread.of(seconds) for name, seconds in _timed(pipe, operations).items()}


@torch.no_grad()
def _timed(pipe: ECDiffPipeline, operations: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    found = {}
    for name, operation in operations.items():
        seconds = []
        for _ in range(1 + CALLS):
            synchronize(pipe.device)
            began = time.perf_counter()
            operation()
            synchronize(pipe.device)
            seconds.append(time.perf_counter() - began)
        found[name] = seconds[1:]
    return found
