"""Images that nothing can be compared with: not finite, of one colour, or saturated from end to end.

A decoder that overflows makes them of whatever latents it gets, and any config would equal them perfectly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecdiff_core.errors import ECDiffError, NonFiniteLatentsError
from ecdiff_tune.data.calibration import CalibrationSet

FAULTS = (
    "",
    "not finite",
    "all black",
    "all white",
    "of one colour",
    "saturated: nearly every value is 0 or 1",
)
"""In words, by number; 0 is none."""
ONE_COLOUR = 2 / 255
"""Range of values within a channel and frame below which nothing is to be seen."""
_STRAY = 1000
"""One value in so many, at least one, is disregarded at either end of that range."""
SATURATED = 0.999
"""Share of values at 0 or 1 from which an image is nothing else."""
_LEFT_OUT_SHARE = 10
"""One in so many prompts may be left out; more are a fault of the models."""


class UnusableReferenceError(ECDiffError):
    """Too many images of a model alone are such that nothing can be compared with them."""


def most_left_out(count: int) -> int:
    """How many of ``count`` prompts may be left out: a tenth, at least one, and never all.

    >>> most_left_out(100), most_left_out(3), most_left_out(1)
    (10, 1, 0)
    """
    return min(max(1, count // _LEFT_OUT_SHARE), max(0, count - 1))


def fault(image: Tensor) -> int:
    """The number in ``FAULTS`` of what is wrong with an image; 0 where nothing is.

    An image in black and white has values of 0 and 1 alone; only in colours is that saturated.

    Args:
        image: RGB in 0 … 1, shape (3, height, width), of a video (frames, 3, height, width). A video is of
            one colour if more than half of its frames are.

    >>> fault(torch.zeros(3, 8, 8)), fault(torch.ones(3, 8, 8)), fault(torch.full((3, 8, 8), 0.5))
    (2, 3, 4)
    >>> fault(torch.linspace(0, 1, 192).reshape(3, 8, 8)), fault(torch.tensor(float("nan")).expand(3, 8, 8))
    (0, 1)
    """
    if not torch.isfinite(image).all():
        return 1
    values = image.float().flatten(-2).reshape(-1, 3, image.shape[-2] * image.shape[-1])
    stray = min(max(1, values.shape[-1] // _STRAY), (values.shape[-1] - 1) // 2)
    low, high = (values.kthvalue(k, dim=-1).values for k in (1 + stray, values.shape[-1] - stray))
    flat = (high - low).amax(dim=-1) < ONE_COLOUR
    if flat.float().mean() > 0.5:
        if high[flat].max() < ONE_COLOUR:
            return 2
        return 3 if low[flat].min() > 1 - ONE_COLOUR else 4
    if ((values <= 0) | (values >= 1)).float().mean() <= SATURATED:
        return 0
    coloured = values.amax(dim=1) - values.amin(dim=1) > ONE_COLOUR
    return 5 if coloured.float().mean() > 1 - SATURATED else 0


def refuse_many(
    faults: Mapping[int, tuple[str, int]], prompts: CalibrationSet, at_most: int, dtype: str
) -> None:
    """Refuse a reference of which more prompts than ``at_most`` would have to be left out.

    Args:
        faults: the side and its fault by the prompt's index.
        prompts: all of them.
        dtype: that the images were made in.

    Raises:
        NonFiniteLatentsError, UnusableReferenceError: there are more.
    """
    if len(faults) <= at_most:
        return
    row, (side, number) = next(iter(faults.items()))
    if number == 1:
        advice = "Are its weights damaged?" if dtype == "float32" else "Try dtype=float32."
        line = f"The {side} model's own image is not finite in {dtype}."
        raise NonFiniteLatentsError(line, key=side, got=dtype, advice=advice)
    advice = "Is its VAE damaged?" if dtype == "float32" else "Its VAE may overflow: try dtype=float32."
    raise UnusableReferenceError(
        f"The {side} model's own image of {prompts.prompts[row]!r} is {FAULTS[number]} in {dtype}, and any "
        f"config would equal it. {len(faults)} of {len(prompts)} prompts are like that.",
        key=side,
        got={"prompt": prompts.prompts[row], "image": FAULTS[number], "prompts": len(faults)},
        advice=advice,
    )


def describe(faults: Mapping[int, tuple[str, int]], prompts: CalibrationSet) -> list[str]:
    """A line a prompt that is left out."""
    return [
        f"left out, for the {side} model's own image is {FAULTS[number]}: {prompts.prompts[row]}"
        for row, (side, number) in faults.items()
    ]
