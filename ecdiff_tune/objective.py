"""Eq. 9-12 of EC-Diff, and what they make of measurements: scores and trials."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from ecdiff_core.errors import ECDiffError
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey, PlannedCandidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement

if TYPE_CHECKING:
    from ecdiff_tune.evaluation.reference import Reference


class ObjectiveError(ECDiffError):
    """The objective has no meaning for this pair or these settings."""


BurdenOf = Literal["steps", "cloud_calls"]


@dataclass(frozen=True)
class Weights:
    """w1, w2, w3 of eq. 12, and its burden: ``steps`` (eq. 11) or ``cloud_calls`` (``cloud_relief``)."""

    w1: float = 0.3
    w2: float = 0.3
    w3: float = 0.4
    burden: BurdenOf = "steps"


@dataclass(frozen=True)
class Score:
    """One config's values; ``burden`` is None where there is no s (stage 1)."""

    quality: float
    efficiency: float
    burden: float | None
    objective: float


def quality(ssims: Sequence[float]) -> float:
    """Mean SSIM over prompts (eq. 9)."""
    return fmean(ssims)


def efficiency(seconds: float, cloud_seconds: float, edge_seconds: float) -> float:
    """(t_cloud - t) / (t_cloud - t_edge) (eq. 10): 0 as slow as the cloud, 1 as fast as the edge; unbounded.

    Raises:
        ObjectiveError: the cloud alone is not slower than the edge alone.

    The paper's SD-v1.4 + BK-SDM-Small:

    >>> round(efficiency(seconds=1.16, cloud_seconds=1.70, edge_seconds=1.18), 3)
    1.038
    """
    if cloud_seconds <= edge_seconds:
        raise ObjectiveError(
            f"Efficiency has no meaning: the cloud model alone takes {cloud_seconds:.3g} s, the edge "
            f"model alone {edge_seconds:.3g} s.",
            key="efficiency",
            got={"cloud": cloud_seconds, "edge": edge_seconds},
            advice="Expected a slower cloud; are they swapped, or is the machine busy?",
        )
    return (cloud_seconds - seconds) / (cloud_seconds - edge_seconds)


def burden(s: int, num_steps: int, earliest_s: int) -> float:
    """(T - s) / (T - s') (eq. 11): 1 where s = s', 0 where the cloud does every step; above 1 for s < s'.

    >>> burden(s=34, num_steps=50, earliest_s=30)
    0.8
    """
    return (num_steps - s) / (num_steps - earliest_s)


def cloud_relief(cloud_share: float) -> float:
    """1 - cloud calls / T, in the place of eq. 11: 1 where the cloud is never called, 0 where at every step.

    >>> cloud_relief(8 / 50)
    0.84
    """
    return 1 - cloud_share


def score(quality: float, efficiency: float, burden: float | None, weights: Weights) -> Score:
    """Objective = w1 * quality + w2 * efficiency + w3 * burden (eq. 12).

    Without a burden (stage 1, where it is a constant) its term is left out.
    """
    total = weights.w1 * quality + weights.w2 * efficiency
    if burden is not None:
        total += weights.w3 * burden
    return Score(quality, efficiency, burden, total)


Stage = Literal[1, 2, "joint"]
"""1 searches (k, alpha), 2 s, joint all at once."""


def stage_name(stage: Stage) -> str:
    """In words.

    >>> stage_name(1), stage_name("joint")
    ('stage 1', 'joint search')
    """
    return "joint search" if stage == "joint" else f"stage {stage}"


@dataclass(frozen=True)
class Trial:
    """One evaluated config. ``score`` is None where an image could not be made (state ``infeasible``)."""

    stage: Stage
    number: int
    config: PlannedCandidate
    measurements: tuple[Measurement, ...]
    seconds: float
    score: Score | None
    pruned: str = ""
    suggested_s: int | None = None

    @property
    def candidate(self) -> Candidate:
        """What was asked for."""
        return self.config.candidate

    @property
    def plan(self) -> Plan:
        """What every step did."""
        return self.config.plan

    @property
    def key(self) -> ConfigKey:
        """Of its images."""
        return self.config.key

    @property
    def state(self) -> str:
        """``complete``, ``infeasible``, or ``pruned`` before all prompts were measured."""
        if self.pruned:
            return "pruned"
        return "infeasible" if self.score is None else "complete"

    @property
    def value(self) -> float:
        """The objective; minus infinity where infeasible."""
        return float("-inf") if self.score is None else self.score.objective

    @property
    def quality(self) -> float:
        """The mean SSIM, of a trial that has a score."""
        assert self.score is not None
        return self.score.quality

    def keeps(self, min_quality: float | None, max_seconds: float | None) -> bool:
        """Whether it has at least that mean SSIM and takes at most so long an image; None is no limit."""
        enough = min_quality is None or (self.score is not None and self.score.quality >= min_quality)
        return enough and (max_seconds is None or self.seconds <= max_seconds)


MERITS: Mapping[str, Callable[[Trial], float]] = {
    "quality": lambda trial: trial.quality,
    "seconds": lambda trial: -trial.seconds,
    "cloud_calls": lambda trial: -trial.plan.cloud_calls,
}
"""What configs are compared by, the higher the better."""
FRONT_MERITS = tuple(MERITS)
"""What a person who pays for GPUs weighs: all of them."""


def pareto_front(trials: Iterable[Trial], merits: Sequence[str]) -> list[Trial]:
    """The scored trials that no other dominates, the fastest first; one dominates that is nowhere worse and
    somewhere better.

    Args:
        merits: names of ``MERITS`` that count.
    """
    values = [(one, tuple(MERITS[name](one) for name in merits)) for one in trials]

    def dominated(mine: tuple[float, ...]) -> bool:
        return any(
            theirs != mine and all(a >= b for a, b in zip(theirs, mine, strict=True)) for _, theirs in values
        )

    front = [one for one, mine in values if not dominated(mine)]
    return sorted(front, key=lambda one: (one.seconds, -one.quality))


@dataclass(frozen=True)
class Scorer:
    """Measurements to a score (eq. 9-12); seconds from the latency profile, or from the clock.

    Args:
        latency: the machine's profile.
        weights: w1, w2, w3.
        earliest_s: s' of eq. 11.
        wallclock: seconds of (cloud alone, edge alone) where trials are timed one by one, else None.
    """

    latency: LatencyProfile
    weights: Weights
    earliest_s: int
    wallclock: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, latency: LatencyProfile, weights: Weights, earliest_s: int, reference: Reference | None
    ) -> Scorer:
        """With a reference whose seconds were timed like the trials' the scorer goes by the clock."""
        if reference is None:
            return cls(latency, weights, earliest_s)
        fixed = latency.encode.median + latency.decode.median
        cloud, edge = reference.seconds()
        return cls(latency, weights, earliest_s, (cloud + fixed, edge + fixed))

    def trial(
        self, stage: Stage, number: int, config: PlannedCandidate, measurements: tuple[Measurement, ...]
    ) -> Trial:
        """A trial of what was measured; stage 1 has no s, so that its burden is left out."""
        plan = config.plan
        found = self.score(plan, measurements, with_burden=stage != 1)
        return Trial(stage, number, config, measurements, self.seconds(plan, measurements), found)

    def on_own_runs(self, trial: Trial) -> Trial:
        """The trial on the prompts with the cloud's own run alone: what is reported."""
        rows = tuple(one for one in trial.measurements if not one.reference)
        if len(rows) == len(trial.measurements):
            return trial
        found = self.trial(trial.stage, trial.number, trial.config, rows)
        return replace(found, pruned=trial.pruned, suggested_s=trial.suggested_s)

    def seconds(self, plan: Plan, measurements: tuple[Measurement, ...]) -> float:
        """Seconds an image."""
        if self.wallclock is None:
            return self.latency.seconds(plan)
        timed = statistics.median(one.seconds for one in measurements)  # denoising and decoding
        return self.latency.encode.median + timed + self.latency.transfer(plan)

    def cloud_and_edge_seconds(self, num_steps: int) -> tuple[float, float]:
        """t_cloud and t_edge of eq. 10."""
        if self.wallclock is not None:
            return self.wallclock
        return self.latency.alone(num_steps)

    def values(self, trial: Trial) -> tuple[float, ...]:
        """The objective of every prompt alone; minus infinity where it has no finite image."""
        return tuple(
            float("-inf") if alone is None else alone.objective
            for one in trial.measurements
            for alone in [self.score(trial.plan, (one,), with_burden=trial.stage != 1)]
        )

    def if_quality(self, plan: Plan, quality: float, with_burden: bool) -> float:
        """The objective if the quality were that, by the latency profile."""
        by_profile = replace(self, wallclock=None)
        found = by_profile.score(plan, (Measurement(quality, None, 0.0),), with_burden)
        assert found is not None
        return found.objective

    def score(self, plan: Plan, measurements: tuple[Measurement, ...], with_burden: bool) -> Score | None:
        """The score; None when a prompt has no finite image."""
        ssims = [one.ssim for one in measurements if one.ssim is not None]
        if len(ssims) < len(measurements):
            return None
        seconds = self.seconds(plan, measurements)
        gained = efficiency(seconds, *self.cloud_and_edge_seconds(plan.num_steps))
        return score(quality(ssims), gained, self._burden(plan) if with_burden else None, self.weights)

    def _burden(self, plan: Plan) -> float:
        if self.weights.burden == "cloud_calls":
            return cloud_relief(plan.cloud_share)
        return burden(plan.handoff_step, plan.num_steps, self.earliest_s)
