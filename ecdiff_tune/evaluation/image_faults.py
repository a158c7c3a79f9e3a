"""Images that nothing can be compared with: not finite, of one colour, or saturated from end to end.

A decoder that overflows makes them of whatever latents it gets, and any config would equal them perfectly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecdiff_core.errors import ECDiffError, NonFiniteLatentsError
from ecdiff_tune.data.calibration import CalibrationSet

FAULTS = ("", "not finite", "all black", "all white", "of one colour", "saturated: every value is 0 or 1")
"""In words, by number; 0 is none."""
ONE_COLOUR = 2 / 255
"""Range of values within a channel and frame below which nothing is to be seen."""
SATURATED = 0.999
"""Share of values at 0 or 1 from which an image is nothing else."""
LEFT_OUT_SHARE = 10
"""One in so many prompts may be left out; more are a fault of the models."""


class UnusableReferenceError(ECDiffError):
    """Too many images of a model alone are such that nothing can be compared with them."""


def fault(image: Tensor) -> int:
    """The number in ``FAULTS`` of what is wrong with an image; 0 where nothing is.

    Args:
        image: RGB in 0 … 1, shape (3, height, width), of a video (frames, 3, height, width). A video is of
            one colour if every frame is.

    >>> fault(torch.zeros(3, 8, 8)), fault(torch.ones(3, 8, 8)), fault(torch.full((3, 8, 8), 0.5))
    (2, 3, 4)
    >>> fault(torch.linspace(0, 1, 192).reshape(3, 8, 8)), fault(torch.tensor(float("nan")).expand(3, 8, 8))
    (0, 1)
    """
    if not torch.isfinite(image).all():
        return 1
    values = image.float().flatten(-2)
    low, high = values.amin(dim=-1), values.amax(dim=-1)
    if (high - low).max() < ONE_COLOUR:
        if high.max() < ONE_COLOUR:
            return 2
        return 3 if low.min() > 1 - ONE_COLOUR else 4
    return 5 if ((values <= 0) | (values >= 1)).float().mean() > SATURATED else 0


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
        raise NonFiniteLatentsError(f"The {side} model's own image is not finite in {dtype}. {advice}")
    advice = "Is its VAE damaged?" if dtype == "float32" else "Its VAE may overflow: try dtype=float32."
    raise UnusableReferenceError(
        f"The {side} model's own image of {prompts.prompts[row]!r} is {FAULTS[number]} in {dtype}, and any "
        f"config would equal it. {advice} {len(faults)} of {len(prompts)} prompts are like that."
    )


def describe(faults: Mapping[int, tuple[str, int]], prompts: CalibrationSet) -> list[str]:
    """A line a prompt that is left out."""
    return [
        f"left out, for the {side} model's own image is {FAULTS[number]}: {prompts.prompts[row]}"
        for row, (side, number) in faults.items()
    ]
