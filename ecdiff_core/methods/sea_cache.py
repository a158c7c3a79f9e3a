"""SeaCache (arXiv 2602.18993): skips while the latents, filtered to what is signal by now, change little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ecdiff_core.methods.diffusers_caches import blocks_of, switched_on, too_few_steps, unknown_block
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    blocks = blocks_of(model)
    if len(blocks) < 2:
        return "it needs two transformer blocks or more"
    if any(getattr(one, "context_pre_only", False) for one in blocks):
        return "its last block returns no stream of the prompt, which diffusers' SeaCache keeps"
    return unknown_block(blocks) or too_few_steps(num_steps, 2)


def _latents(target: Target) -> Any:
    """What diffusers asks for: the latents of a call, each (C, frames, H, W)."""

    def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        sample = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if sample.ndim == 4:
            return [one.unsqueeze(1) for one in sample]
        if sample.ndim != 5:
            return None  # packed latents: nothing to filter
        frames_first = sample.shape[2] == getattr(target.model, "config", {}).get("in_channels")
        return list((sample.transpose(1, 2) if frames_first else sample).unbind(0))

    return read


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import SeaCacheConfig
    from diffusers.hooks.sea_cache import apply_sea_cache

    config = SeaCacheConfig(**values, raw_vision_callback=_latents(target))
    with switched_on(target, config, apply_sea_cache) as reset:
        yield reset


METHOD = Method(
    name="sea_cache",
    label="SeaCache",
    source="arXiv 2602.18993; diffusers.SeaCacheConfig",
    parameters=(
        Parameter(
            "threshold",
            "float",
            0.0,
            100.0,
            0.25,
            "accumulated relative change up to which is reused",
            decides=True,
        ),
        Parameter(
            "residual_order", "int", 0, 1, 1, "0 reuses the residual, 1 extrapolates it", (0, 1), shows=False
        ),
        Parameter("retention_steps", "int", 0, 1000, 1, "calls at the beginning that are computed"),
        Parameter("cache_end_steps", "int", 0, 1000, 1, "calls at the end that are computed"),
        Parameter("max_consecutive_cached", "int", 0, 1000, 2, "most calls skipped in a row; 0 is no limit"),
    ),
    dial="threshold",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
    batch_wide=True,
    adaptive=True,
)
