"""The page's plots, from a study's data."""

from __future__ import annotations

from statistics import fmean

import pandas as pd

from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.svg import Axis, Plot, Point
from ecdiff_tune.study.config_sections import ssims_of

SERIES = 6
"""Styles s0 … s5 of the style sheet, which tell lines apart."""
MARKS = ("dot", "square", "triangle", "diamond", "dot", "square")


def style(number: int) -> str:
    """The style of a series."""
    return f"s{number % SERIES}"


def search_plots(
    trials: pd.DataFrame, min_quality: float | None = None, max_seconds: float | None = None
) -> list[Plot]:
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
    plots = []
    for stage, part in scored.groupby("stage", sort=False):
        if str(stage) == "1":
            plots.append(_against(part, "alpha", "k", "Stage 1: objective against alpha", whole=False))
        elif str(stage) == "2":
            plots.append(_against(part, "s", None, "Stage 2: objective against s", whole=True))
        else:
            plots.append(_against(part, "alpha", "k", "Objective against alpha", whole=False, linked=False))
            plots.append(_against(part, "s", "k", "Objective against s", whole=True, linked=False))
    return plots


def left_out(trials: pd.DataFrame) -> str:
    """Trials of the search that have no score to draw."""
    if trials.empty:
        return ""
    counts = trials.loc[trials["objective"].isna(), "state"].value_counts()
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _against(
    part: pd.DataFrame, x: str, by: str | None, name: str, *, whole: bool, linked: bool = True
) -> Plot:
    """Trials over one parameter; ``linked`` joins those of a series, and all in the order of the search."""
    names = {"alpha": "alpha", "s": "s, steps on the cloud side"}
    plot = Plot(
        name,
        Axis.around(names[x], part[x], whole=whole),
        Axis.around("objective", part["objective"], room=0.1),
    )
    complete = part[part["state"] == "complete"]  # what was pruned was best on few prompts at most
    may_win = complete[complete["keeps"]]
    best = next(rows for rows in (may_win, complete, part) if len(rows))["objective"].idxmax()
    keys = _series(part, by)
    groups = list(enumerate(part.groupby(keys, sort=True)))
    if linked:
        for number, (_, rows) in groups:
            ordered = rows.sort_values(x)
            plot.line(_points(ordered, x), style(number))
            plot.arrows(_points(rows.sort_values("trial"), x), "path")
    for number, (key, rows) in groups:
        if by is not None:
            plot.legend.append((style(number), str(key)))
        for index, row in rows.iterrows():
            shape = "star" if index == best else MARKS[number % SERIES]
            shape += " part" * (row["state"] == "pruned")
            plot.mark(row[x], row["objective"], style(number), _row_title(row), shape)
            if linked:
                plot.text(row[x], row["objective"], str(row["trial"]), "order")
    if linked:
        plot.legend.append(("path", "order of the search"))
    plot.legend.append(("star", "best"))
    if len(complete) < len(part):
        plot.legend.append(("part", "pruned, over the prompts it was seen on"))
    return plot


def _series(part: pd.DataFrame, by: str | None) -> pd.Series:
    """What tells the lines of a plot apart: k, or that steps are listed, and what else was searched."""
    words = pd.Series("", index=part.index) if by is None else "k = " + part[by].astype("Int64").astype(str)
    if by == "k":
        words = words.where(part["k"].notna(), "listed steps")
    for more in ("estimator", "handoff_adapter"):
        if more in part and part[more].nunique() > 1:
            words = (words + " " + part[more]).str.strip()
    return words


def _points(rows: pd.DataFrame, x: str) -> list[Point]:
    return [(float(a), float(b)) for a, b in zip(rows[x], rows["objective"], strict=True)]


def _row_title(row: pd.Series) -> str:
    words = [f"{name}={row[name]:g}" for name in ("p", "k", "alpha", "s") if pd.notna(row[name])]
    pruned = f"\npruned after {row['prompts']} prompts" if row["state"] == "pruned" else ""
    return (
        f"trial {row['trial']}: {' '.join(words)}\nobjective {shown(row['objective'])}, "
        f"quality {shown(row['quality'])}, {row['seconds']:.3g} s{pruned}"
    )


def noise_profile(data: StudyData) -> Plot | None:
    """How much the cloud's noise changes from step to step (the paper's Figure 3), p marked."""
    if data.noise is None or data.noise.empty:
        return None
    x, mean = data.noise["step"].tolist(), data.noise["mean"].tolist()
    spread = (data.noise["variance"] ** 0.5).tolist()
    low = [max(m - d, m / 10) for m, d in zip(mean, spread, strict=True)]
    high = [m + d for m, d in zip(mean, spread, strict=True)]
    plot = Plot(
        "Change of the cloud's noise from step to step",
        Axis.around("step i", x, whole=True, room=0.02),
        Axis.around("mean |ε(i) − ε(i−1)|", [*low, *high], log=True),
    )
    plot.band(x, low, high, "s0")
    plot.line(list(zip(x, mean, strict=True)), "s0")
    p = data.winner.candidate.params.warm_up
    plot.rule(p, "winner", f"p = {p}")
    plot.legend += [("s0", "mean over prompts, ± standard deviation")]
    return plot


def spread(data: StudyData) -> Plot:
    """SSIM of every prompt, tuned on and held out, with the mean and its interval."""
    rows = {"tuned on": data.winner.measurements, "held out": data.heldout}
    rows = {name: found for name, found in rows.items() if ssims_of(found)}
    everything = [ssim for found in rows.values() for ssim in ssims_of(found)]
    plot = Plot(
        "SSIM of every prompt",
        Axis.around("SSIM to the cloud's picture", everything),
        Axis("", -0.5, len(rows) - 0.5),
        height=90 + 95 * len(rows),
    )
    names = {"tuned on": (data.record.prompts, "s0"), "held out": (data.record.heldout, "s1")}
    for place, (name, found) in enumerate(reversed(rows.items())):
        prompts, colour = names[name]
        for i, one in enumerate(found):
            if one.ssim is not None:
                height = place - 0.28 + 0.36 * ((i * 0.618034) % 1)
                plot.mark(one.ssim, height, colour, f"{prompts.prompts[i]}\nSSIM {shown(one.ssim)}", "small")
        values = ssims_of(found)
        low, high = interval95(values, data.spec.seed)
        plot.across(place + 0.26, low, high, "winner")
        plot.mark(fmean(values), place + 0.26, "winner", f"{name}: mean {shown(fmean(values))}", "diamond")
        plot.text(fmean(values), place + 0.26, f"{name}: {shown(fmean(values))}", "winner")
    return plot
