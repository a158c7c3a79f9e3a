"""Figures 1 and 5 of the paper: disturbed pictures, and the latent error over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_tune.report.pictures import grid

Array = NDArray[np.float64]
MARKS = {
    Action.CLOUD: ("o", "a real call"),
    Action.APPROX: (".", "an approximated step"),
    Action.EDGE: ("s", "an edge step"),
}
"""By what the step before did."""


def figure1(stills: Tensor, ratios: Sequence[float], ssim: Array, prompts: Sequence[str]) -> Figure:
    """The cloud's pictures, undisturbed and with noise after each step; a column a prompt.

    Args:
        stills: RGB in 0 … 1, shape (prompts, 1 + ratios, 3, height, width).
        ratios: standard deviation of the noise over the latents' size.
        ssim: to the undisturbed picture, shape (prompts, ratios).
        prompts: headings.
    """
    means = ssim.mean(axis=0)
    labels = ["origin", *(f"{100 * r:g} % noise\nSSIM {m:.3f}" for r, m in zip(ratios, means, strict=True))]
    return grid([(label, stills[:, i]) for i, label in enumerate(labels)], prompts)


@dataclass(frozen=True)
class Example:
    """One correction on one prompt, to show a mode.

    Args:
        title: over the panel.
        error: latent error of that prompt before every step and at the end, shape (T + 1,).
        first, last: what is shown of it.
        correction: the step of the real call.
    """

    title: str
    error: Array
    first: int
    last: int
    correction: int


def figure5(errors: Mapping[str, Array], plan: Plan, examples: Sequence[Example]) -> Figure:
    """(a) latent error over steps, the mean over prompts; (b), (c) the two modes of correction.

    Args:
        errors: by method, shape (prompts, T + 1).
        plan: of the first method.
        examples: up to two, a panel each.
    """
    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    widths = [2.2, *[1] * len(examples)]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_all(axes[0], errors, plan)
    for axis, example in zip(axes[1:], examples, strict=True):
        _draw_example(axis, example, plan)
    for axis in axes[1:]:
        axis.legend(frameon=False, fontsize=7)
    for axis in axes:
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("latent error (root mean square)")
    return figure


def _draw_all(axis: Axes, errors: Mapping[str, Array], plan: Plan) -> None:
    for name, values in errors.items():
        steps, mean = np.arange(values.shape[1]), values.mean(axis=0)
        (line,) = axis.plot(steps, mean, lw=1.4, label=name)
        low, high = np.quantile(values, [0.25, 0.75], axis=0)
        axis.fill_between(steps, low, high, alpha=0.15, lw=0, color=line.get_color())
    handoff = plan.handoff_step
    if plan.hands_over:
        axis.axvline(handoff, color="black", lw=0.8, ls=":")
        axis.annotate(
            f"handoff, s = {handoff} ",
            (handoff, 1),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="top",
            fontsize=8,
        )
    axis.set_ylim(bottom=0)
    axis.set_title("(a) mean over prompts, quartiles shaded", fontsize=9)
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_example(axis: Axes, example: Example, plan: Plan) -> None:
    steps = np.arange(example.first, example.last + 1)
    axis.plot(steps, example.error[steps], color="C0", lw=1)
    for action, (marker, label) in MARKS.items():
        at = [step for step in steps if step > 0 and plan.steps[step - 1] is action]
        if at:
            axis.plot(
                at,
                example.error[at],
                marker,
                color="C0" if action is Action.APPROX else "C3",
                label=f"after {label}",
            )
    band = example.correction, example.correction + 1
    axis.axvspan(*band, color="C3", alpha=0.12, lw=0, label="the correcting call")
    axis.set_title(example.title, fontsize=9)
    axis.margins(y=0.2)  # room for the legend
