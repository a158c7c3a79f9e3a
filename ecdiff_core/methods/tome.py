"""Token merging (ToMe, arXiv 2303.17604): attention over fewer tokens, in every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from torch import nn

from ecdiff_core.methods.method import Method, Parameter, Reset, Target, Values


def _obstacle(model: nn.Module, num_steps: int) -> str | None:
    if type(model).__name__ != "UNet2DConditionModel":
        return f"it is for U-Nets, not for {type(model).__name__}"
    if not any(type(one).__name__ == "BasicTransformerBlock" for one in model.modules()):
        return "it has no attention"
    return None if find_spec("tomesd") else "it is not installed (pip install tomesd)"


@contextmanager
def _switch(target: Target, values: Values) -> Iterator[Reset]:
    import tomesd

    # Random merging would make another image each time.
    tomesd.apply_patch(target.model, use_rand=False, **values)
    try:
        yield lambda: None
    finally:
        tomesd.remove_patch(target.model)
        for module in target.model.modules():
            vars(module).pop("_tome_info", None)


METHOD = Method(
    name="tome",
    label="ToMe",
    source="arXiv 2303.17604; the package tomesd",
    parameters=(
        Parameter("ratio", "float", 0.0, 0.75, 0.5, "share of the tokens that are merged", shows=False),
        Parameter(
            "max_downsample",
            "int",
            1,
            8,
            1,
            "merges on levels scaled down by so much at most",
            grid=(1, 2),  # the first level of SDXL has no attention: 1 does nothing there
            shows=False,
        ),
    ),
    dial="ratio",
    rising=True,
    obstacle=_obstacle,
    switch=_switch,
)
