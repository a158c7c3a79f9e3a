"""DBCache of cache-dit: where the first blocks change their input as before, the others are not asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ecdiff_core.methods.cache_dit_blocks import SOURCE, cached_blocks, obstacle
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values

CALIBRATORS = ("none", "taylorseer", "foca", "dmd")


def _calibrator(values: Values) -> Any:
    from cache_dit import DMDCalibratorConfig, FoCaCalibratorConfig, TaylorSeerCalibratorConfig

    # Of the images' stream alone, as where cache-dit reads a YAML: SD3's last block returns no other.
    if values["calibrator"] == "taylorseer":
        return TaylorSeerCalibratorConfig(True, False, taylorseer_order=values["taylorseer_order"])
    kinds = {"foca": FoCaCalibratorConfig, "dmd": DMDCalibratorConfig}
    kind = kinds.get(values["calibrator"])
    return None if kind is None else kind(True, False)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from cache_dit import DBCacheConfig

    own = {name: value for name, value in values.items() if name not in ("calibrator", "taylorseer_order")}
    config = DBCacheConfig(**own, num_inference_steps=target.num_steps)
    with cached_blocks(target, config, _calibrator(values)) as reset:
        yield reset


METHOD = Method(
    name="dbcache",
    label="DBCache",
    source=SOURCE,
    parameters=(
        Parameter(
            "residual_diff_threshold",
            "float",
            0.0,
            10.0,
            0.08,
            "relative change of the first blocks below which the others are reused",
            decides=True,
        ),
        # cache-dit's own 8 are more than small models have
        Parameter("Fn_compute_blocks", "int", 1, 100, 1, "first blocks, always computed"),
        Parameter("Bn_compute_blocks", "int", 0, 100, 0, "last blocks, always computed"),
        Parameter("max_warmup_steps", "int", 0, 1000, 8, "calls at the beginning that are computed", (8, 3)),
        Parameter("max_cached_steps", "int", -1, 1000, -1, "most calls that reuse; -1 is no limit"),
        Parameter("max_continuous_cached_steps", "int", -1, 1000, -1, "most in a row; -1 is no limit"),
        Parameter(
            "calibrator",
            "name",
            default="none",
            about="how what is reused goes on: as it was, or along a series",
            grid=("none", "taylorseer"),
            names=CALIBRATORS,
            shows=False,
        ),
        Parameter("taylorseer_order", "int", 1, 4, 1, "order of that calibrator's series", shows=False),
    ),
    dial="residual_diff_threshold",
    rising=True,
    obstacle=obstacle,
    switch=_switch,
    batch_wide=True,
    adaptive=True,
)
