"""Pyramid Attention Broadcast (arXiv 2408.12588): attention layers hand out what they gave before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ecdiff_core.methods.diffusers_caches import switched_on, too_few_steps
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    from diffusers.hooks._common import _ATTENTION_CLASSES

    if not any(
        isinstance(one, _ATTENTION_CLASSES) and "blocks" in name for name, one in model.named_modules()
    ):
        return "it has no attention layers that diffusers knows"
    return too_few_steps(num_steps, 1)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    between = values["timestep_low"], values["timestep_high"]
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=values["spatial_attention_block_skip_range"],
        cross_attention_block_skip_range=values["cross_attention_block_skip_range"],
        spatial_attention_timestep_skip_range=between,
        cross_attention_timestep_skip_range=between,
        current_timestep_callback=lambda: target.follower.timestep,
    )
    with switched_on(target, config, apply_pyramid_attention_broadcast) as reset:
        yield reset


METHOD = Method(
    name="pab",
    label="PAB",
    source="arXiv 2408.12588; diffusers.PyramidAttentionBroadcastConfig",
    parameters=(
        Parameter(
            "spatial_attention_block_skip_range",
            "int",
            1,
            50,
            2,
            "one computed self-attention in so many",
            in_calls=True,
        ),
        Parameter(
            "cross_attention_block_skip_range", "int", 1, 50, 1, "the same of cross-attention", grid=(1, 5)
        ),
        Parameter("timestep_low", "float", -1, 1000, 100, "timestep above which attention may be reused"),
        Parameter("timestep_high", "float", 0, 1001, 800, "timestep below which attention may be reused"),
    ),
    dial="spatial_attention_block_skip_range",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
