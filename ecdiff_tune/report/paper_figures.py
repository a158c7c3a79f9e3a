"""Figures 1, 3 and 5 of the paper: disturbed images, change of the noise, latent error over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_tune.report.figures import colours, drawing, logarithmic, points, rule, series, whole_ticks
from ecdiff_tune.report.image_grid import grid

Array = NDArray[np.float64]
SHOWN_SHARE = 0.9
"""Of the steps, from the first on, that the linear scale of Figure 3 shows whole: with DDIM the last ones
change many times as much as all others, and would press the curve flat."""
LITTLE_MORE = 2
"""Times as high as that, up to which the last steps are shown whole too."""


def figure1(stills: Tensor, ratios: Sequence[float], ssim: Array, prompts: Sequence[str]) -> Figure:
    """The cloud's images, undisturbed and with noise after each step; a column a prompt.

    Args:
        stills: RGB in 0 … 1, shape (prompts, 1 + ratios, 3, height, width).
        ratios: standard deviation of the noise over the latents' size.
        ssim: to the undisturbed image, shape (prompts, ratios).
        prompts: headings.
    """
    means = ssim.mean(axis=0)
    labels = ["origin", *(f"{100 * r:g} % noise\nSSIM {m:.3f}" for r, m in zip(ratios, means, strict=True))]
    return grid([(label, stills[:, i]) for i, label in enumerate(labels)], prompts)


def noise_change(
    profile: pd.DataFrame, p: int, *, both_scales: bool = False, over: str = "prompts"
) -> Figure:
    """How much the cloud's noise changes from step to step (Figure 3), on a logarithmic scale.

    Args:
        profile: columns step, mean, variance.
        p: warm-up steps, marked.
        both_scales: also on a linear scale, as in the paper, which shows the flat part less well.
        over: what the mean is over.
    """
    scales = ("linear", "log") if both_scales else ("log",)
    name, widths = "Change of the cloud's noise from step to step", [1] * len(scales)
    with drawing(name, 9 if both_scales else 5.2, 3.4, widths) as (figure, axes):
        for axis, scale in zip(axes, scales, strict=True):
            _draw_noise_change(axis, profile, scale, f"mean over {over}, ± standard deviation")
            rule(axis, p, f"p = {p}", "accent")
            if both_scales:
                axis.set_title(f"{scale} scale")
        axes[0].set_ylabel("mean |ε(i) − ε(i−1)|")
    return figure


def _draw_noise_change(axis: Axes, profile: pd.DataFrame, scale: str, legend: str) -> None:
    mean, spread = profile["mean"].to_numpy(), profile["variance"].to_numpy() ** 0.5
    colour = series(0)["color"]
    axis.plot(profile["step"], mean, color=colour, label=legend)
    low = mean - spread
    if scale == "log":
        logarithmic(axis)
        low = np.maximum(low, mean / 10)
    axis.fill_between(profile["step"], low, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axis.set_xlabel("step i")
    whole_ticks(axis)
    if scale == "linear":
        _limit(axis, mean, spread)


def _limit(axis: Axes, mean: Array, spread: Array) -> None:
    """Scale an axis to the first steps; where the curve leaves it, say how far it goes."""
    top = 1.2 * float((mean + spread)[: math.ceil(SHOWN_SHARE * len(mean))].max())
    if top < 1.05 * mean.max() < LITTLE_MORE * top:
        top = 1.05 * float(mean.max())
    axis.set_ylim(0, top)
    most = int(mean.argmax())
    if mean[most] > top:
        height = f"up to {mean[most]:.2g}\nat step {most + 1}"
        axis.text(most - 2, 0.6 * top, height, horizontalalignment="right", verticalalignment="center")


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


def latent_error(
    errors: Mapping[str, Array], plan: Plan | None = None, examples: Sequence[Example] = ()
) -> Figure:
    """Figure 5: (a) latent error over steps, the mean over prompts; (b), (c) the two modes of correction.

    Args:
        errors: by method, shape (prompts, T + 1).
        plan: of the first method; None is not known.
        examples: up to two, a panel each; none is (a) alone.
    """
    name, widths = "Latent error to the cloud's own run over steps", [2.2, *[1] * len(examples)]
    with drawing(name, 11 if examples else 5.2, 3.6, widths) as (figure, axes):
        for number, (method, values) in enumerate(errors.items()):
            steps, colour = np.arange(values.shape[1]), series(number)["color"]
            axes[0].plot(steps, values.mean(axis=0), color=colour, label=method)
            low, high = np.quantile(values, [0.25, 0.75], axis=0)
            axes[0].fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("latent error (root mean square)")
        for number, step in enumerate(plan.crossings_by_step if plan is not None else ()):
            many = plan is not None and plan.crossings > 1
            text = f"handoff, s = {step}" if not many else "the link is crossed" if number == 0 else ""
            rule(axes[0], step, text, "soft", linestyle=":")
        axes[0].set_title("(a) " * bool(examples) + "mean over prompts, quartiles shaded")
        for axis, example in zip(axes[1:], examples, strict=True):
            assert plan is not None
            _draw_example(axis, example, plan)
        for axis in axes:
            axis.set_xlabel("step")
            whole_ticks(axis)
    return figure


def _draw_example(axis: Axes, example: Example, plan: Plan) -> None:
    """The error around one correction; marks say what the step before did."""
    ours, red = colours()["s0"], colours()["accent"]
    marks = {
        Action.CLOUD: ("o", red, 36, "after a real call"),
        Action.APPROX: ("o", ours, 16, "after an approximated step"),
        Action.EDGE: ("s", red, 30, "after an edge step"),
    }
    steps = np.arange(example.first, example.last + 1)
    axis.plot(steps, example.error[steps], color=ours, linewidth=1)
    for action, (marker, colour, size, legend) in marks.items():
        at = [step for step in steps if step > 0 and plan.steps[step - 1] is action]
        if at:
            points(axis, at, example.error[at], color=colour, marker=marker, size=size, label=legend)
    band = example.correction, example.correction + 1
    axis.axvspan(*band, color=red, alpha=0.12, linewidth=0, label="the correcting call")
    axis.set_title(example.title)
