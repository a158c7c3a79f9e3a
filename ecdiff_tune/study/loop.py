"""Runs a search: ask, evaluate, score, tell, until done."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ecdiff_core.errors import ECDiffError
from ecdiff_core.plan import Plan
from ecdiff_core.text import counted
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.latency import LatencyProfile
from ecdiff_tune.ledger import Measurement
from ecdiff_tune.objective import Score, Weights, burden, efficiency, quality, score
from ecdiff_tune.search import Search
from ecdiff_tune.search.base import Result
from ecdiff_tune.search.spaces import Stage, stage_name
from ecdiff_tune.study.progress import Progress

if TYPE_CHECKING:
    from ecdiff_tune.evaluator import Evaluator
    from ecdiff_tune.reference import Reference


class NoWinnerError(ECDiffError):
    """No config of the space can be used."""


@dataclass(frozen=True)
class Trial:
    """One evaluated config. ``score`` is None where a picture could not be made (state ``infeasible``)."""

    stage: Stage
    number: int
    candidate: Candidate
    plan: Plan
    measurements: tuple[Measurement, ...]
    seconds: float
    score: Score | None
    discarded: str = ""

    @property
    def state(self) -> str:
        """``complete``, ``infeasible``, or ``discarded`` before all prompts were measured."""
        if self.discarded:
            return "discarded"
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
        """Whether it has at least that mean SSIM and takes at most so long a picture; None is no limit."""
        enough = min_quality is None or (self.score is not None and self.score.quality >= min_quality)
        return enough and (max_seconds is None or self.seconds <= max_seconds)


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

    def seconds(self, plan: Plan, measurements: tuple[Measurement, ...]) -> float:
        """Seconds a picture."""
        if self.wallclock is None:
            return self.latency.seconds(plan)
        transfer = self.latency.transfer_seconds if plan.hands_over else 0.0
        timed = statistics.median(one.seconds for one in measurements)  # denoising and decoding
        return self.latency.encode.median + timed + transfer

    def cloud_and_edge_seconds(self, num_steps: int) -> tuple[float, float]:
        """t_cloud and t_edge of eq. 10."""
        if self.wallclock is not None:
            return self.wallclock
        return self.latency.alone(num_steps)

    def values(self, trial: Trial) -> tuple[float, ...]:
        """The objective of every prompt alone; minus infinity where it has no finite picture."""
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
        """The score; None when a prompt has no finite picture."""
        ssims = [one.ssim for one in measurements if one.ssim is not None]
        if len(ssims) < len(measurements):
            return None
        seconds = self.seconds(plan, measurements)
        gained = efficiency(seconds, *self.cloud_and_edge_seconds(plan.num_steps))
        taken = burden(plan.handoff_step, plan.num_steps, self.earliest_s) if with_burden else None
        return score(quality(ssims), gained, taken, self.weights)


def run(
    stage: Stage,
    search: Search,
    evaluator: Evaluator,
    scorer: Scorer,
    progress: Progress,
    on_trial: Callable[[Trial], None],
) -> Trial:
    """Evaluate what the search asks for until it is done; the winning trial.

    Stage 1 has no s, so its burden is a constant and is left out. A search that is run again over the same
    ledger replays its trials without generating anything.

    Raises:
        NoWinnerError: no config won.
    """
    numbers: dict[Candidate, int] = {}
    trials: dict[Candidate, Trial] = {}
    unfinished: dict[Candidate, Trial] = {}
    best: Trial | None = None
    while not search.done:
        ask = search.ask()
        progress.start_trials(stage, numbers.get(ask.candidates[0], len(numbers) + 1), ask)
        found = evaluator.measure(ask.candidates, progress.prompts_done, ask.prompts)
        results = []
        for candidate, measured in zip(ask.candidates, found, strict=True):
            number = numbers.setdefault(candidate, len(numbers) + 1)
            trial = _trial(stage, number, candidate, evaluator.plan(candidate), tuple(measured), scorer)
            results.append(Result(trial.value, scorer.values(trial), trial.score))
            if ask.prompts is not None:
                unfinished[candidate] = trial
                continue
            unfinished.pop(candidate, None)
            trials[candidate] = trial
            progress.end_trial(trial)
            on_trial(trial)
            loser, best = (trial, best) if best and trial.value <= best.value else (best, trial)
            if stage == 1 and loser is not None:
                evaluator.forget(loser.candidate)
        search.tell(results)
        for candidate in [one for one in unfinished if one in search.discarded]:
            on_trial(replace(unfinished.pop(candidate), discarded=search.discarded[candidate]))
            if stage == 1:
                evaluator.forget(candidate)
    if given_up := [why for one, why in search.discarded.items() if one not in trials]:
        progress.say(_told_of_discarded(given_up, len(trials)))
    if search.best is None:
        raise NoWinnerError(f"The {stage_name(stage)} has no winner: {_why_none_won(list(trials.values()))}")
    return trials[search.best]


def _why_none_won(trials: Sequence[Trial]) -> str:
    """Of what was measured on all prompts, and what may help."""
    scored = [one for one in trials if one.score is not None]
    if not trials:
        return (
            "no config was measured on all prompts. Loosen search.max_seconds if you set it, or search more: "
            "search.k, search.alpha, search.s, search.trials."
        )
    if not scored:
        return (
            f"none of {counted(len(trials), 'config')} has finite pictures. Try dtype=float32, or "
            "other search.k and search.alpha."
        )
    best, fastest = max(one.quality for one in scored), min(one.seconds for one in scored)
    return (
        f"{len(scored)} of {counted(len(trials), 'config')} with finite pictures, a quality of "
        f"{best:.4f} at best and {fastest:.3g} s a picture at least, and none wins. Loosen "
        "search.min_quality or search.max_seconds if you set one, search more (search.k, search.alpha, "
        "search.s, search.cloud_calls, search.trials), or raise objective.w1."
    )


def _trial(
    stage: Stage,
    number: int,
    candidate: Candidate,
    plan: Plan,
    found: tuple[Measurement, ...],
    scorer: Scorer,
) -> Trial:
    value = scorer.score(plan, found, with_burden=stage != 1)
    return Trial(stage, number, candidate, plan, found, scorer.seconds(plan, found), value)


def _told_of_discarded(reasons: Sequence[str], measured: int) -> str:
    """How many candidates were given up and why, the most frequent reason first."""
    parts = ", ".join(f"{count} by {reason}" for reason, count in Counter(reasons).most_common())
    total = len(reasons) + measured
    return f"of {counted(total, 'config')} given up: {len(reasons)} ({parts}), measured whole: {measured}"
