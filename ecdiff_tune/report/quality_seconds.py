"""Quality against seconds as a figure: of a study what tuning won, of a comparison its methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial, pareto_front
from ecdiff_tune.report.comparison import TUNED
from ecdiff_tune.report.figures import colours, drawing, label, points, rule
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study.progress import describe

METHODS = ("s0", "s2", "s3", "s4", "s5")
"""Colours of methods, none like the winner's."""


@dataclass(frozen=True)
class Spot:
    """A labelled point; without a quality a line at its seconds.

    Args:
        colour: a name of ``figures.colours``.
        title: that the page tells where it is pointed at.
        interval: of the quality.
        marker: matplotlib's; ``hollow`` shows its outline alone.
    """

    label: str
    colour: str
    seconds: float
    quality: float | None
    title: str = ""
    interval: tuple[float, float] | None = None
    marker: str = "o"
    hollow: bool = False


def quality_against_seconds(
    medium: str,
    spots: Iterable[Spot],
    trials: Sequence[Trial] = (),
    compared: str = "",
    partly: Sequence[Trial] = (),
) -> Figure:
    """Labelled points with the 95% intervals of their quality; trials as small ones, with their front.

    Args:
        medium: what a generation makes, image or video.
        partly: trials of few prompts, hollow.
        compared: what hollow points are, for the legend.
    """
    with drawing(f"Quality against seconds per {medium}", height=3.9) as (figure, (axis,)):
        axis.set(xlabel=f"seconds per {medium}", ylabel=f"quality (mean SSIM to the cloud's {medium})")
        _small_points(axis, trials, partly)
        for one in spots:
            if one.quality is None:
                rule(axis, one.seconds, one.label, one.colour)
                continue
            colour = colours()[one.colour]
            if one.interval is not None:
                axis.plot([one.seconds] * 2, one.interval, "-_", color=colour, linewidth=1, markersize=6)
            size = 130 if one.marker == "*" else 34
            style: dict[str, Any] = {
                "size": size,
                "color": colour,
                "marker": one.marker,
                "hollow": one.hollow,
            }
            titles = [one.title] if one.title else []
            points(axis, [one.seconds], [one.quality], titles, zorder=4, **style)
            label(axis, one.seconds, one.quality, one.label, one.colour)
        if compared:
            points(axis, [], [], color=colours()["s4"], hollow=True, label=compared)
    return figure


def _small_points(axis: Axes, trials: Sequence[Trial], partly: Sequence[Trial]) -> None:
    soft, on_some = colours()["soft"], "a config, on some of the prompts"
    for some, name, hollow in ((partly, on_some, True), (trials, "a config, on all prompts", False)):
        x, y = [one.seconds for one in some], [one.quality for one in some]
        titles = [title_of(one) for one in some]
        if some:
            points(axis, x, y, titles, size=14, color=soft, label=name, hollow=hollow)
    if best := pareto_front((*trials, *partly), ("quality", "seconds")):
        x, y = [one.seconds for one in best], [one.quality for one in best]
        front = "no config is faster and better"
        axis.step(x, y, "--", where="post", color=soft, linewidth=1, label=front)


def tradeoff(data: StudyData, others: Iterable[Spot]) -> Figure:
    """Every config of a study and the front, cloud and edge alone, the paper's row, what compare measured."""
    others = list(others)
    alone = _alone(data, with_edge=all(one.label != "edge" for one in others))
    own, interval = data.winner, tuple(data.score["quality_ci95"])
    title = f"the winner: {title_of(own)}"
    winner = Spot("the winner", "accent", own.seconds, own.quality, title, (interval[0], interval[1]), "*")
    compared = "measured by compare, on the held-out prompts" if others else ""
    spots = [*others, *_paper(data), *alone, winner]
    record = data.record
    return quality_against_seconds(data.medium, spots, record.trials, compared, record.partly)


def methods(table: pd.DataFrame, medium: str) -> Figure:
    """A point a method of a comparison; the cloud alone is a line.

    Of methods that take the same seconds the later ones stand a little to the right, to be told apart.

    Args:
        table: columns method, label, seconds, and ssim with ssim_low and ssim_high.
        medium: what a generation makes, image or video.
    """
    known = table.dropna(subset=["seconds", "ssim"])
    aside = known.groupby(known["seconds"].round(6)).cumcount() * 0.012 * known["seconds"].max()
    spots = []
    for i, row in enumerate(known.assign(seconds=known["seconds"] + aside).to_dict("records")):
        if row["method"] == "cloud":
            spots.append(Spot(f"{row['label']} alone", "soft", row["seconds"], None))
            continue
        interval = None if pd.isna(row["ssim_low"]) else (row["ssim_low"], row["ssim_high"])
        own = row["method"] == TUNED
        colour, marker = ("accent", "*") if own else (METHODS[i % len(METHODS)], "o")
        spots.append(Spot(row["label"], colour, row["seconds"], row["ssim"], "", interval, marker))
    return quality_against_seconds(medium, spots)


def title_of(trial: Trial) -> str:
    """A config and its values, over several lines."""
    return (
        f"{describe(trial.candidate, 'joint', bool(trial.key.alpha))}\n"
        f"quality {shown(trial.quality)}, {trial.seconds:.3g} s, "
        f"objective {shown(trial.value)}\n{trial.plan}"
    )


def _alone(data: StudyData, with_edge: bool) -> list[Spot]:
    cloud, edge = data.record.scorer.cloud_and_edge_seconds(data.num_steps)
    title = f"cloud alone\nquality 1 by definition, {cloud:.3g} s"
    spots = [Spot("cloud alone", "cloud", cloud, 1.0, title, marker="s")]
    if with_edge and data.edge_alone is not None:
        quality = float(data.edge_alone["ssim"].mean())
        title = f"edge alone\nquality {shown(quality)}, {edge:.3g} s"
        spots.append(Spot("edge alone", "edge", edge, quality, title, marker="s"))
    return spots


def _paper(data: StudyData) -> list[Spot]:
    """The paper's row of the pair, if it has one; its quality if it was measured here."""
    if data.paper is None:
        return []
    seconds, known = data.record.latency.seconds(data.paper.plan()), data.measured(data.paper)
    if known is None:
        return [Spot("the paper's row: quality not measured here", "s3", seconds, None)]
    title = f"the paper's row: {title_of(known)}"
    return [Spot("the paper's row", "s3", seconds, known.quality, title, marker="D")]
