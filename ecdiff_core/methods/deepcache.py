"""DeepCache (arXiv 2312.00858): a U-Net's inner levels are asked once in a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from torch import nn

from ecdiff_core.methods.diffusers_caches import too_few_steps
from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    kind = type(model).__name__
    if kind != "UNet2DConditionModel":
        return f"it is for U-Nets, not for {kind}"
    if getattr(model, "mid_block", None) is None:
        return "it wants a U-Net with a middle block"
    if find_spec("DeepCache") is None:
        return "it is not installed (pip install DeepCache)"
    return too_few_steps(num_steps, 1)


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    from DeepCache import DeepCacheSDHelper

    class Helper(DeepCacheSDHelper):
        """Goes by the follower's step: its own look-up by the timestep fails where two steps have one."""

        cur_timestep = property(lambda _: max(0, target.follower.step), lambda *_: None)

        def wrap_unet_forward(self) -> None:
            """Leave the U-Net's own ``forward`` to the hooks on it."""

    helper: Any = Helper(pipe=SimpleNamespace(unet=target.model))
    helper.set_params(**values)
    helper.enable()

    def reset() -> None:
        helper.cached_output.clear()
        helper.start_timestep = None

    try:
        yield reset
    finally:
        helper.function_dict["unet_forward"] = target.model.forward
        helper.disable()


METHOD = Method(
    name="deepcache",
    label="DeepCache",
    source="arXiv 2312.00858; the package DeepCache",
    parameters=(
        Parameter("cache_interval", "int", 1, 20, 3, "one whole call in so many", in_calls=True),
        Parameter("cache_branch_id", "int", 0, 30, 0, "how deep a call still goes: 3 a level"),
    ),
    dial="cache_interval",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
