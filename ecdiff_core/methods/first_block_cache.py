"""FirstBlockCache: where the first block changes its input as it did before, the others are not asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ecdiff_core.methods.diffusers_caches import blocks_of, switched_on, too_few_steps, unknown_block
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Those that return both streams: diffusers subtracts them, and SD3's last block returns one."""
    return [one for one in blocks_of(model) if not getattr(one, "context_pre_only", False)]


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    blocks = _blocks(model)
    if len(blocks) < 2:
        return "it needs two transformer blocks or more whose outputs can be reused"
    return unknown_block(blocks) or too_few_steps(num_steps, 1)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

    holder: Any = None
    if len(_blocks(target.model)) < len(blocks_of(target.model)):
        holder = nn.Module()
        holder.transformer_blocks = nn.ModuleList(_blocks(target.model))
    with switched_on(target, FirstBlockCacheConfig(**values), apply_first_block_cache, holder) as reset:
        yield reset


METHOD = Method(
    name="first_block_cache",
    label="FirstBlockCache",
    source="ParaAttention; diffusers.FirstBlockCacheConfig",
    parameters=(
        Parameter(
            "threshold",
            "float",
            0.0,
            10.0,
            0.05,
            "relative change of the first block below which all is reused",
            decides=True,
        ),
    ),
    dial="threshold",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
    batch_wide=True,
    adaptive=True,
)
