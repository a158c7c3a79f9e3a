"""An Optuna study over the space's grid, through ask and tell (https://optuna.org, version 5).

What Optuna suggests twice is measured once. A trial that is significantly worse is pruned after a few
prompts, by the test of ``race``. What is finished stays in the study: a search that is made again over it
goes on from there, and several processes may work on it at once, each taking over what the others measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.search import points
from ecdiff_tune.search.base import Context, Origin, Rounds, Search
from ecdiff_tune.search.options import OBJECTIVES, SearchError
from ecdiff_tune.search.optuna_study import finished, make_sampler, open_study, under_way
from ecdiff_tune.search.optuna_trial import (
    note,
    note_measurements,
    noted_measurements,
    repeat,
    show,
    tell,
    why_pruned,
)
from ecdiff_tune.search.optuna_workers import POLL_SECONDS, Watch, beating
from ecdiff_tune.search.paired import TIE
from ecdiff_tune.search.race import RaceState
from ecdiff_tune.search.spaces import GridSpace
from ecdiff_tune.search.suggest import Dimensions, values_of


def search(space: GridSpace | points.Space, context: Context) -> Search:
    """``Search`` that asks for what an Optuna study suggests.

    Raises:
        SearchError: the sampler lacks a package, the storage cannot be used, or the objectives do not fit.
    """
    if space.stage == 1 and "burden" in context.options.optuna.objectives:
        line = "search.objectives=burden has no meaning in stage 1, which has no s: leave it out."
        raise SearchError(line, key="search.objectives", got="burden")
    pruned: dict[Candidate, str] = {}
    trials = _Trials(space, context, pruned)
    return Search(trials.rounds(), pruned, trials.origins)


class _Trials:
    """The trials of a study and the race that they run."""

    def __init__(
        self, space: GridSpace | points.Space, context: Context, pruned: dict[Candidate, str]
    ) -> None:
        self._context, self._options = context, context.options.optuna
        self._dimensions, self._study = Dimensions(space), open_study(self._options)
        self._race_state, self._pruned = RaceState(context, pruned), pruned
        self._watch = Watch(self._study, self._options.worker)
        self._seen: set[int] = set()
        self.origins: dict[Candidate, Origin] = {}

    @cached_property
    def _starts(self) -> Sequence[dict[str, Any]]:
        """What is tried before the sampler is asked: the paper's params; of a grid every point, shuffled."""
        start = self._options.start
        grid: Sequence[Candidate | points.Point] = self._dimensions.space.grid
        first: Sequence[Candidate | points.Point]
        first = [] if start is None else [Candidate(start)]
        if self._options.sampler == "grid":
            first = random.Random(self._context.seed).sample(grid, len(grid))
        return [self._dimensions.nearest(one) for one in first]

    def rounds(self) -> Rounds[Candidate | None]:
        """Go on with the study until it has its trials and nobody works on one any more; the best."""
        while True:
            yield from self._catch_up()
            others = self._watch.running()
            if self._has_room():
                yield from self._run(self._ask())
            elif others:
                time.sleep(POLL_SECONDS)  # one of them may win, or die
            else:
                break
        yield from self._catch_up()  # a trial may have ended since the last time
        best = self._best()
        if best is not None:
            yield from self._race_state.measure([best], self._context.num_prompts)
        return best

    def _catch_up(self) -> Rounds[None]:
        """What was measured before this search was stopped, or by other workers: the ledger has it, or it is
        added there."""
        for known in finished(self._study):
            if known.number in self._seen:
                continue
            self._seen.add(known.number)
            candidate = self._dimensions.candidate(known.params)
            if candidate is None or "same_as" in known.user_attrs:
                continue
            self._keep_origin(candidate, known)
            measured = noted_measurements(known)
            if measured or known.user_attrs["worker"] == self._options.worker:
                self._context.records.add(candidate, measured)
                yield from self._race_state.measure([candidate], known.user_attrs["prompts"])
            if why := why_pruned(known):
                self._pruned[candidate] = why

    def _has_room(self) -> bool:
        """Whether a trial is left to be made."""
        grid = self._options.sampler == "grid"
        return under_way(self._study) < self._options.trials and not (grid and self._untried() is None)

    def _untried(self) -> dict[str, Any] | None:
        """The first of the starts that no trial has."""
        trials = self._study.get_trials(deepcopy=False)
        tried = [one.params for one in trials if one.state != TrialState.FAIL]
        return next((one for one in self._starts if one not in tried), None)

    def _ask(self) -> optuna.Trial:
        start, options = self._untried(), self._options
        waiting = self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if start is not None and not waiting:
            self._study.enqueue_trial(start)
        number = under_way(self._study)
        self._study.sampler = make_sampler(options.sampler, self._context.seed, number, options.worker)
        trial = self._study.ask(self._dimensions.distributions)
        trial.set_user_attr("worker", options.worker)
        return trial

    def _run(self, trial: optuna.Trial) -> Rounds[None]:
        """Measure a trial as far as it is worth it, and tell Optuna."""
        candidate = self._dimensions.candidate(trial.params)
        try:
            with beating(trial, self._options.worker):
                if candidate is None:  # p > s, or p < 2 with k >= 1
                    note(trial, prompts=0, pruned="contradictory params")
                    self._study.tell(trial, state=TrialState.PRUNED)
                    return
                while self._is_measured_elsewhere(trial, candidate):
                    time.sleep(POLL_SECONDS)
                yield from self._catch_up()
                if known := self._known(candidate):
                    repeat(self._study, trial, known)
                    return
                self._keep_origin(candidate, trial)
                best = self._incumbent()
                yield from self._race(candidate, best)
                self._seen.add(trial.number)
                self._tell(trial, candidate, best)
        except UpdateFinishedTrialError:  # it was silent for so long that another worker gave it up
            return

    def _keep_origin(self, candidate: Candidate, trial: optuna.Trial | FrozenTrial) -> None:
        """By what people find it in the dashboard: the first trial of its images."""
        s = self._dimensions.point(trial.params).get("s")
        self.origins.setdefault(candidate, Origin(trial.number, s if isinstance(s, int) else None))

    def _is_measured_elsewhere(self, trial: optuna.Trial, candidate: Candidate) -> bool:
        """Whether another worker was first; one that has no worker's name yet has not got all its params."""
        return any(
            "worker" not in one.user_attrs or self._dimensions.candidate(one.params) == candidate
            for one in self._watch.running()
            if one.number < trial.number
        )

    def _known(self, candidate: Candidate) -> FrozenTrial | None:
        """A finished trial that made the same images."""
        trials = finished(self._study)
        return next((one for one in trials if self._dimensions.candidate(one.params) == candidate), None)

    def _race(self, candidate: Candidate, best: Candidate | None) -> Rounds[None]:
        """Measure it, up to the rung at which it is significantly worse than the best."""
        everything, options, state = self._context.num_prompts, self._context.options, self._race_state
        limit = self._options.max_seconds
        if limit is not None and self._context.cost(candidate).seconds > limit:
            self._pruned[candidate] = "max_seconds"
        if best is not None:
            arms, level = [best, candidate], options.level(everything, self._options.trials)
            state.bound(arms)
            for prompts in options.prompts(everything):
                yield from state.measure([candidate], prompts)
                state.bound(arms)
                state.compare(arms, prompts, level, options.margin)
        yield from state.measure([candidate], everything)

    def _incumbent(self) -> Candidate | None:
        """The best so far that keeps the limits; None where not eq. 12 decides."""
        limit = self._options.min_quality
        least = float("-inf") if limit is None else limit
        whole = [one for one in self._race_state.whole() if self._quality(one) >= least]
        if not whole or self._options.objectives != ("objective",):
            return None
        return self._race_state.leader(whole, self._context.num_prompts)

    def _quality(self, one: Candidate) -> float:
        result = self._race_state.result(one)
        return -1.0 if result is None or result.score is None else result.score.quality

    def _tell(self, trial: optuna.Trial, candidate: Candidate, best: Candidate | None) -> None:
        """Tell Optuna what came of a trial.

        The prompts of a pruned one may have been easy: it lies as far below the best as on those prompts.
        """
        state, everything = self._race_state, self._context.num_prompts
        seen, result = state.seen(candidate), state.result(candidate)
        note(trial, prompts=seen)
        if isinstance(candidate, Candidate):  # also what is no dimension here; of a point Optuna has all
            note(trial, **values_of(candidate))
        if candidate in self._pruned:
            note(trial, pruned=self._pruned[candidate])
        measured, options = () if result is None else result.measurements, self._options
        if options.worker:
            note_measurements(trial, measured)
        image = self._context.records.image(candidate)
        if image is not None and options.artifacts is not None:
            show(trial, image, options.artifacts)
        values = dict[str, float | None](asdict(self._context.cost(candidate)))
        if result is not None and result.score is not None:
            values |= asdict(result.score)
            ssims = [one.ssim for one in measured if one.ssim is not None]
            if ssims:
                note(trial, quality_ci95=interval95(ssims, self._context.seed))
            if best is not None and seen < everything:
                values["objective"] = state.mean(best) + state.mean(candidate) - state.mean(best, seen)
            rungs = (*self._context.options.prompts(everything), everything)
            means = {prompts: state.mean(candidate, prompts) for prompts in rungs if prompts <= seen}
        else:
            means = {}
        tell(self._study, trial, options, values, means)

    def _best(self) -> Candidate | None:
        """Of the trials that were measured whole and keep the limits."""
        whole = [
            one
            for one in finished(self._study)
            if one.user_attrs.get("prompts") == self._context.num_prompts
            and one.state == TrialState.COMPLETE
            and all(value <= 0 for value in one.constraints.values())
        ]
        if len(self._options.objectives) > 1:
            front = {one.number for one in self._study.best_trials}
            whole = [one for one in whole if one.number in front]
        best = max(whole, key=self._rank, default=None)
        return None if best is None else self._dimensions.candidate(best.params)

    def _rank(self, one: FrozenTrial) -> tuple[float, float, int]:
        """The better the higher: by what is optimised, of several objectives by eq. 12; then the faster."""
        (name, *others) = self._options.objectives
        sign = -1 if OBJECTIVES[name] == "minimize" else 1
        value = one.user_attrs["objective"] if others else sign * one.values[0]
        return round(value / TIE), -one.user_attrs["seconds"], -one.number
