"""Figure 3 of the paper: how much the cloud's noise changes from step to step."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ecdiff_tune.report.pictures import draw_noise_change


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
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"change of the cloud's noise, {prompts} {media}{'s' * (prompts != 1)}", fontsize=10)
    return figure
