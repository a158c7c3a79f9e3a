"""MagCache (arXiv 2506.09045): skips where the residual's magnitude is known to stay as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from ecdiff_core.methods.diffusers_caches import blocks_of, switched_on, too_few_steps, unknown_block
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    blocks = blocks_of(model)
    if not blocks:
        return "it has no list of transformer blocks"
    return unknown_block(blocks) or too_few_steps(num_steps, 2)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import MagCacheConfig, apply_mag_cache

    config = MagCacheConfig(
        threshold=values["threshold"],
        max_skip_steps=values["max_skip_steps"],
        retention_ratio=values["retention_ratio"],
        mag_ratios=torch.tensor(values["mag_ratios"]),
        num_inference_steps=target.num_steps,
    )
    with switched_on(target, config, apply_mag_cache) as reset:
        yield reset


@contextmanager
def measuring(target: Target, ratios: list[Sequence[float]]) -> Iterator[Reset]:
    """Computes every call, and adds a generation's ratios of magnitudes to a list at the end.

    diffusers prints them when the last step is done, and forgets them: it is told of one step more.
    """
    from diffusers.hooks import MagCacheConfig, apply_mag_cache

    config = MagCacheConfig(calibrate=True, num_inference_steps=target.num_steps + 1)
    with switched_on(target, config, apply_mag_cache) as reset:
        managers = target.follower.managers
        yield reset
        for manager in managers:
            ratios.extend(state.calibration_ratios for state in manager._state_cache.values())


METHOD = Method(
    name="mag_cache",
    label="MagCache",
    source="arXiv 2506.09045; diffusers.MagCacheConfig",
    parameters=(
        Parameter(
            "threshold",
            "float",
            0.0,
            10.0,
            0.06,
            "accumulated error below which calls are skipped",
            decides=True,
        ),
        Parameter("max_skip_steps", "int", 0, 50, 3, "most calls skipped in a row"),
        Parameter("retention_ratio", "float", 0.0, 1.0, 0.2, "share of the steps at the beginning, computed"),
        Parameter("mag_ratios", "floats", 0.0, 1e6, None, "ratio of the residual's magnitude, step by step"),
    ),
    dial="threshold",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
