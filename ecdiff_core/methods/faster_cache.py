"""FasterCache (arXiv 2410.19355): reuses attention, and the half of guidance without the prompt."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ecdiff_core.methods.diffusers_caches import switched_on, too_few_steps
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values

_DOUBLED = ("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask")


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    from diffusers.hooks.faster_cache import _ATTENTION_CLASSES, _TRANSFORMER_BLOCK_IDENTIFIERS

    layers = [name for name, one in model.named_modules() if isinstance(one, _ATTENTION_CLASSES)]
    if not any(re.search(known, name) for known in _TRANSFORMER_BLOCK_IDENTIFIERS for name in layers):
        return "it finds no attention layers by the names that diffusers looks for"
    return too_few_steps(num_steps, 1)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import FasterCacheConfig, apply_faster_cache

    doubled = [name for name in (*_DOUBLED, "pooled_projections") if name in _arguments(target.model)]
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=values["spatial_attention_block_skip_range"],
        unconditional_batch_skip_range=values["unconditional_batch_skip_range"],
        spatial_attention_timestep_skip_range=(-1, values["attention_below"]),
        unconditional_batch_timestep_skip_range=(-1, values["unconditional_below"]),
        attention_weight_callback=lambda _: values["attention_weight"],
        current_timestep_callback=lambda: target.follower.timestep,
        tensor_format="BFCHW" if target.video else "BCHW",
        is_guidance_distilled=not target.guided,  # then there is no second half to skip
        _unconditional_conditional_input_kwargs_identifiers=doubled,
    )
    with switched_on(target, config, apply_faster_cache) as reset:
        yield reset


def _arguments(model: nn.Module) -> list[str]:
    return list(inspect.signature(type(model).forward).parameters)


METHOD = Method(
    name="faster_cache",
    label="FasterCache",
    source="arXiv 2410.19355; diffusers.FasterCacheConfig",
    parameters=(
        Parameter(
            "unconditional_batch_skip_range",
            "int",
            1,
            50,
            5,
            "one computed half without prompt in so many",
            in_calls=True,
        ),
        Parameter("spatial_attention_block_skip_range", "int", 1, 50, 2, "one computed attention in so many"),
        Parameter(
            "unconditional_below", "float", 0, 1001, 641, "timestep below which that half may be skipped"
        ),
        Parameter("attention_below", "float", 0, 1001, 681, "timestep below which attention may be reused"),
        Parameter(
            "attention_weight", "float", 0.0, 1.0, 0.5, "how far attention is extrapolated", shows=False
        ),
    ),
    dial="unconditional_batch_skip_range",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
