"""How the best config changes with the weights, the link and s', from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.objective import Scorer, Trial
from ecdiff_tune.study.recorded import Recorded

POINTS = 200
"""Values of a weight that are looked at."""
MBPS = (1.0, 1000.0)
"""Of the links that are looked at."""
OTHERS = ("s0", "s2", "s3", "s4", "s5")
"""Styles of configs, none like the winner's."""


@dataclass(frozen=True)
class SweepRange:
    """A range of a setting in which one config is best.

    Args:
        low, high: the first and last value that was looked at.
        end: where the next range begins.
        seconds, objective: an image's, and the config's, at ``low`` and at ``high``.
    """

    low: float
    high: float
    end: float
    best: Trial
    seconds: tuple[float, float]
    objective: tuple[float, float]


@dataclass(frozen=True)
class Sweep:
    """The best configs over a setting's range; ``own`` is the study's value, None where it has none."""

    setting: str
    own: float | None
    low: float
    high: float
    log: bool
    segments: tuple[SweepRange, ...]

    def place(self, value: float) -> float:
        """Where a value lies in the range, 0 … 100."""
        if self.log:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)


def best(trials: Iterable[Trial], scorer: Scorer) -> tuple[Trial, float]:
    """The config with the highest objective (eq. 12) as ``scorer`` has it, and that; of equals the faster."""

    def rank(trial: Trial) -> tuple[float, float]:
        assert trial.score is not None
        value = scorer.if_quality(trial.plan, trial.score.quality, with_burden=True)
        return value, -scorer.latency.seconds(trial.plan)

    ranked = [(rank(one), one) for one in trials]
    (value, _), found = max(ranked, key=lambda pair: pair[0])
    return found, value


def sweeps(record: Recorded) -> list[Sweep]:
    """w1, w2, w3, the bandwidth where it is known what a handoff carries, and s'."""
    scorer, num_steps = record.scorer, record.spec.num_steps
    found = [_weight(record, name) for name in ("w1", "w2", "w3")]
    payload = record.latency.payload_values
    if payload is not None:
        link = record.spec.link

        def linked(mbps: float) -> Scorer:
            return replace(scorer, latency=scorer.latency.over(Link(mbps, link.round_trip_seconds)))

        low, high = min(MBPS[0], link.mbps or MBPS[0]), max(MBPS[1], link.mbps or MBPS[1])
        values = [low * (high / low) ** (i / POINTS) for i in range(POINTS + 1)]
        found.append(_sweep("link.mbps", link.mbps, values, linked, record.trials, log=True))
    earliest = [float(s) for s in range(num_steps)]

    def counted(s: float) -> Scorer:
        return replace(scorer, earliest_s=int(s))

    found.append(_sweep("objective.earliest_s", float(scorer.earliest_s), earliest, counted, record.trials))
    return found


def styles(found: Iterable[Sweep], winner: Candidate) -> dict[Candidate, str]:
    """A style for every config, the winner's its own."""
    others = [one.best.candidate for sweep in found for one in sweep.segments if one.best.candidate != winner]
    return {winner: "winner"} | {one: OTHERS[i % len(OTHERS)] for i, one in enumerate(dict.fromkeys(others))}


def _weight(record: Recorded, name: str) -> Sweep:
    own = float(getattr(record.scorer.weights, name))
    top = max(1.0, 2 * own)

    def weighted(value: float) -> Scorer:
        given: dict[str, Any] = {name: value}
        weights = replace(record.scorer.weights, **given)
        return replace(record.scorer, weights=weights)

    values = [top * i / POINTS for i in range(POINTS + 1)]
    return _sweep(f"objective.{name}", own, values, weighted, record.trials)


def _sweep(
    setting: str,
    own: float | None,
    values: Sequence[float],
    scorer: Callable[[float], Scorer],
    trials: Sequence[Trial],
    log: bool = False,
) -> Sweep:
    looked = [(value, scorer(value)) for value in values]
    found = [(value, with_it, *best(trials, with_it)) for value, with_it in looked]
    segments = []
    ranges = [list(group) for _, group in groupby(found, key=lambda one: one[2].candidate)]
    ends = [*(run[0][0] for run in ranges[1:]), values[-1]]
    for run, end in zip(ranges, ends, strict=True):
        (low, first, trial, at_low), (high, last, _, at_high) = run[0], run[-1]
        seconds = first.latency.seconds(trial.plan), last.latency.seconds(trial.plan)
        segments.append(SweepRange(low, high, end, trial, seconds, (at_low, at_high)))
    return Sweep(setting, own, values[0], values[-1], log, tuple(segments))
