"""cache-dit's mask of steps: which calls are computed is written down, whatever the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ecdiff_core.methods.cache_dit_blocks import SOURCE, cached_blocks, obstacle
from ecdiff_core.methods.masks import mask_of, presets
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from cache_dit import DBCacheConfig

    config = DBCacheConfig(
        Fn_compute_blocks=1,
        max_warmup_steps=0,
        num_inference_steps=target.num_steps,
        steps_computation_mask=list(mask_of(values, target.num_steps)),
        steps_computation_policy="static",
    )
    with cached_blocks(target, config) as reset:
        yield reset


METHOD = Method(
    name="step_mask",
    label="Step mask",
    source=SOURCE,
    parameters=(
        Parameter("skipped", "int", 0, 100, 2, "calls that reuse between two computed ones", in_calls=True),
        Parameter("warmup", "int", 1, 1000, 6, "calls at the beginning that are computed", (6, 3)),
        Parameter("mask", "ints", 0, 1, (), "1 computes a call, 0 reuses: in place of these two"),
    ),
    dial="skipped",
    rising=True,
    obstacle=obstacle,
    switch=_switch,
    whole="mask",
    presets=presets,
)
