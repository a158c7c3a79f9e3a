"""What a search tried, and the quality of every prompt, as figures of the page."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.figures import colours, drawing, label, points, series, whole_ticks
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study.config_sections import ssims_of

NAMES = {"alpha": "alpha", "s": "s, steps on the cloud side"}


def search_figures(
    trials: pd.DataFrame, min_quality: float | None = None, max_seconds: float | None = None
) -> list[Figure]:
    """Objective against alpha and against s, a line for each k, and the path that the search took."""
    if trials.empty:
        return []
    scored = trials[trials["objective"].notna()]
    keeps = pd.Series(True, index=scored.index)
    if min_quality is not None:
        keeps &= scored["quality"] >= min_quality
    if max_seconds is not None:
        keeps &= scored["seconds"] <= max_seconds
    scored = scored.assign(keeps=keeps)
    figures = []
    for stage, part in scored.groupby("stage", sort=False):
        if str(stage) == "1":
            figures.append(_against(part, "alpha", "k", "Stage 1: objective against alpha"))
        elif str(stage) == "2":
            figures.append(_against(part, "s", None, "Stage 2: objective against s"))
        else:
            figures.append(_against(part, "alpha", "k", "Objective against alpha", linked=False))
            figures.append(_against(part, "s", "k", "Objective against s", linked=False))
    return figures


def left_out(trials: pd.DataFrame) -> str:
    """Trials of the search that have no score to draw."""
    if trials.empty:
        return ""
    counts = trials.loc[trials["objective"].isna(), "state"].value_counts()
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _against(part: pd.DataFrame, x: str, by: str | None, name: str, *, linked: bool = True) -> Figure:
    """Trials over one parameter; ``linked`` joins those of a series, and all in the order of the search."""
    pruned = part["state"] == "pruned"
    complete = part[part["state"] == "complete"]  # what was pruned was best on few prompts at most
    may_win = complete[complete["keeps"]]
    best = next(rows for rows in (may_win, complete, part) if len(rows))["objective"].idxmax()
    with drawing(name) as (figure, (axis,)):
        axis.set(xlabel=NAMES[x], ylabel="objective")
        if x == "s":
            whole_ticks(axis)
        for number, (key, rows) in enumerate(part.groupby(_series(part, by), sort=True)):
            if linked:
                ordered = rows.sort_values(x)
                axis.plot(ordered[x], ordered["objective"], color=series(number)["color"])
                _draw_path(axis, rows.sort_values("trial"), x)
            style: dict[str, Any] = series(number)
            if by is not None:
                points(axis, [], [], label=key, **style)
            for hollow, some in rows[rows.index != best].groupby(pruned):
                points(axis, some[x], some["objective"], _titles(some), hollow=bool(hollow), **style)
            if linked:
                for at, value, trial in zip(rows[x], rows["objective"], rows["trial"], strict=True):
                    label(axis, at, value, str(trial), "soft", weight="normal", size=6)
        star: dict[str, Any] = {"color": colours()["accent"], "marker": "*", "label": "best", "size": 110}
        won = part[part.index == best]
        points(axis, won[x], won["objective"], _titles(won), zorder=4, **star)
        if linked:
            axis.plot([], [], ":", color=colours()["soft"], linewidth=0.8, label="order of the search")
        if len(complete) < len(part):
            legend = "pruned, over the prompts it was seen on"
            points(axis, [], [], color=colours()["soft"], hollow=True, label=legend)
    return figure


def _draw_path(axis: Axes, rows: pd.DataFrame, x: str) -> None:
    """A dotted line through trials, a small arrow in the middle of every piece."""
    grey = colours()["soft"]
    places = rows[[x, "objective"]].to_numpy(float)
    axis.plot(*places.T, ":", color=grey, linewidth=0.8)
    moves = np.diff(places, axis=0)
    middles, lengths = places[:-1] + moves / 2, np.hypot(*moves.T)
    middles, moves = middles[lengths > 0], moves[lengths > 0] / lengths[lengths > 0, None]
    size: dict[str, Any] = {"units": "inches", "scale_units": "inches", "scale": 20, "width": 0.009}
    size |= {"headwidth": 6, "headlength": 5}
    axis.quiver(*middles.T, *moves.T, angles="xy", pivot="mid", color=grey, **size)


def _series(part: pd.DataFrame, by: str | None) -> pd.Series:
    """What tells the lines of a figure apart: k, or that steps are listed, and what else was searched."""
    words = pd.Series("", index=part.index) if by is None else "k = " + part[by].astype("Int64").astype(str)
    if by == "k":
        words = words.where(part["k"].notna(), "listed steps")
    for more in ("estimator", "handoff_adapter"):
        if more in part and part[more].nunique() > 1:
            words = (words + " " + part[more]).str.strip()
    return words


def _titles(rows: pd.DataFrame) -> list[str]:
    """Of each trial its parameters and values."""
    return [_title(row) for _, row in rows.iterrows()]


def _title(row: pd.Series) -> str:
    words = [f"{name}={row[name]:g}" for name in ("p", "k", "alpha", "s") if pd.notna(row[name])]
    pruned = f"\npruned after {row['prompts']} prompts" if row["state"] == "pruned" else ""
    return (
        f"trial {row['trial']}: {' '.join(words)}\nobjective {shown(row['objective'])}, "
        f"quality {shown(row['quality'])}, {row['seconds']:.3g} s{pruned}"
    )


def spread(data: StudyData) -> Figure:
    """SSIM of every prompt, tuned on and held out, with the mean and its interval."""
    rows = [
        ("tuned on", data.record.prompts, data.winner.measurements),
        ("held out", data.record.heldout, data.heldout),
    ]
    rows = [row for row in rows if ssims_of(row[-1])]
    accent = colours()["accent"]
    with drawing("SSIM of every prompt", height=0.9 + 0.9 * len(rows)) as (figure, (axis,)):
        axis.set(xlabel=f"SSIM to the cloud's {data.medium}", ylim=(-0.5, len(rows) - 0.5), yticks=[])
        for place, (name, prompts, found) in enumerate(reversed(rows)):
            marks = [
                (one.ssim, place - 0.28 + 0.36 * ((i * 0.618034) % 1), f"{text}\nSSIM {shown(one.ssim)}")
                for i, (one, text) in enumerate(zip(found, prompts.prompts, strict=False))
                if one.ssim is not None
            ]
            colour = series(len(rows) - 1 - place)["color"]
            x, y, titles = (list(values) for values in zip(*marks, strict=True))
            points(axis, x, y, titles, size=16, color=colour)
            values = ssims_of(found)
            mean, (low, high) = fmean(values), interval95(values, data.spec.seed)
            axis.plot([low, high], [place + 0.26] * 2, "-|", color=accent, markersize=7)
            title = f"{name}: mean {shown(mean)}, 95% {shown(low)} … {shown(high)}"
            points(axis, [mean], [place + 0.26], [title], color=accent, marker="D")
            label(axis, mean, place + 0.26, f"{name}: {shown(mean)}", "accent")
    return figure
