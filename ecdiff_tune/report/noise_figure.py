"""Figure 3 of the paper: how much the cloud's noise changes from step to step."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecdiff_tune.report.pictures import draw_noise_change

SHOWN_SHARE = 0.9
"""Of the steps, from the first on, that the linear scale shows whole: with DDIM the last ones change many
times as much as all others, and would press the curve flat."""

LITTLE_MORE = 2
"""Times as high as that, up to which the last steps are shown whole too."""


def noise_figure(profile: pd.DataFrame, p: int, prompts: int, media: str) -> Figure:
    """On a linear scale as in the paper, and on a logarithmic one, which shows the flat part too.

    Args:
        profile: columns step, mean, variance.
        p: warm-up steps, marked.
        prompts: how many the mean is over.
        media: what the pair makes, ``picture`` or ``video``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, scale in zip(axes, ("linear", "log"), strict=True):
        draw_noise_change(axis, profile, p)
        axis.set_yscale(scale)
        axis.set_title(f"{scale} scale", fontsize=9)
    axes[1].set_ylabel("")
    _limit(axes[0], profile)
    axes[0].legend(frameon=False, fontsize=8, loc="upper center")
    figure.suptitle(f"change of the cloud's noise, {prompts} {media}{'s' * (prompts != 1)}", fontsize=10)
    return figure


def _limit(axis: Axes, profile: pd.DataFrame) -> None:
    """Scale an axis to the first steps; where the curve leaves it, say how far it goes."""
    mean, spread = profile["mean"].to_numpy(), profile["variance"].to_numpy() ** 0.5
    top = 1.2 * float((mean + spread)[: math.ceil(SHOWN_SHARE * len(mean))].max())
    if top < 1.05 * mean.max() < LITTLE_MORE * top:
        top = 1.05 * float(mean.max())
    axis.set_ylim(0, top)
    most = int(mean.argmax())
    if mean[most] > top:
        told = f"up to {mean[most]:.2g}\nat step {most + 1}"
        axis.text(most - 2, 0.6 * top, told, ha="right", va="center", fontsize=8)
