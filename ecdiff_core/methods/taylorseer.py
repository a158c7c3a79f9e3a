"""TaylorSeer (arXiv 2503.06923): between computed calls, layers' outputs go on along their Taylor series."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ecdiff_core.methods.diffusers_caches import switched_on, too_few_steps
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values

MODULES = r"(.+\.)?(single_)?(transformer_)?blocks\.\d+\.(attn\d?|ff|ff_context|ffn)"
"""Attention and feed-forward layers, of U-Nets too; of itself diffusers finds attention in transformers."""


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    if not any(re.fullmatch(MODULES, name) for name, _ in model.named_modules()):
        return "it has no attention or feed-forward layers of a known name"
    return too_few_steps(num_steps, 2)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

    dtype = next(target.model.parameters()).dtype
    config = TaylorSeerCacheConfig(**values, cache_identifiers=[MODULES], taylor_factors_dtype=dtype)
    with switched_on(target, config, apply_taylorseer_cache) as reset:
        yield reset


METHOD = Method(
    name="taylorseer",
    label="TaylorSeer",
    source="arXiv 2503.06923; diffusers.TaylorSeerCacheConfig",
    parameters=(
        Parameter("cache_interval", "int", 1, 20, 5, "one computed call in so many", in_calls=True),
        # diffusers predicts without anything to go by where it is 0
        Parameter("disable_cache_before_step", "int", 1, 1000, 3, "calls at the beginning that are computed"),
        Parameter("max_order", "int", 0, 3, 1, "order of the series", grid=(0, 1, 2), shows=False),
    ),
    dial="cache_interval",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
