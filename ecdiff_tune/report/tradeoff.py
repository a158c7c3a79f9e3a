"""Quality against seconds, as a plot: what tuning won, beside everything that is known of the pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.svg import Axis, Plot, Point
from ecdiff_tune.study.pareto import front, quality_and_speed
from ecdiff_tune.study.progress import describe


def told(trial: Trial) -> str:
    """A config and its values, over two lines."""
    assert trial.score is not None
    return (
        f"{describe(trial.candidate, 'joint')}\nquality {shown(trial.quality)}, {trial.seconds:.3g} s, "
        f"objective {shown(trial.value)}\n{trial.plan}"
    )


@dataclass(frozen=True)
class Spot:
    """A labelled point of ``tradeoff``; without a quality a line at its seconds."""

    label: str
    style: str
    seconds: float
    quality: float | None
    title: str
    shape: str = "ring"


def tradeoff(data: StudyData, others: Iterable[Spot]) -> Plot:
    """Quality against seconds: every config, the front, cloud and edge alone, the paper's row, others."""
    trials = data.record.trials
    others = list(others)
    compared = any(one.label == "edge" for one in others)
    spots = [*others, *_paper(data), *_alone(data, with_edge=not compared), _own(data)]
    plot = Plot(
        f"Quality against seconds a {data.thing}",
        Axis.around(
            f"seconds a {data.thing}", [*(one.seconds for one in trials), *(one.seconds for one in spots)]
        ),
        Axis.around(
            "quality (mean SSIM to the cloud's)",
            [*(one.quality for one in trials), *(one.quality for one in spots if one.quality is not None)],
        ),
        height=380,
    )
    steps: list[Point] = []
    for trial in front(trials, quality_and_speed):
        steps += [(trial.seconds, steps[-1][1])] if steps else []
        steps.append((trial.seconds, trial.quality))
    plot.line(steps, "front")
    for trial in trials:
        plot.mark(trial.seconds, trial.quality, "trial", told(trial), "small")
    low, high = data.score["quality_ci95"]
    plot.whisker(data.winner.seconds, low, high, "winner")
    for one in spots:
        if one.quality is None:
            plot.rule(one.seconds, one.style, one.label)
        else:
            plot.mark(one.seconds, one.quality, one.style, one.title, one.shape)
            plot.text(one.seconds, one.quality, one.label, one.style)
    plot.legend += [("trial", "a config, on all prompts"), ("front", "no config is faster and better")]
    if any(one.style == "other" for one in spots):
        plot.legend.append(("part", "measured by compare, on the held-out prompts"))
    return plot


def _own(data: StudyData) -> Spot:
    one = data.winner
    title = f"the winner: {told(one)}"
    return Spot("the winner", "winner", one.seconds, one.quality, title, "star")


def _alone(data: StudyData, with_edge: bool) -> list[Spot]:
    cloud, edge = data.record.scorer.cloud_and_edge_seconds(data.num_steps)
    title = f"cloud alone\nquality 1 by definition, {cloud:.3g} s"
    spots = [Spot("cloud alone", "cloud", cloud, 1.0, title, "square")]
    if with_edge and data.edge_alone is not None:
        quality = float(data.edge_alone["ssim"].mean())
        title = f"edge alone\nquality {shown(quality)}, {edge:.3g} s"
        spots.append(Spot("edge alone", "edge", edge, quality, title, "square"))
    return spots


def _paper(data: StudyData) -> list[Spot]:
    """The paper's row of the pair, if it has one; its quality if it was measured here."""
    if data.paper is None:
        return []
    seconds, known = data.record.latency.seconds(data.paper.plan()), data.measured(data.paper)
    if known is None:
        return [Spot("the paper's row: quality not measured here", "paper", seconds, None, "")]
    title = f"the paper's row: {told(known)}"
    return [Spot("the paper's row", "paper", seconds, known.quality, title, "diamond")]
