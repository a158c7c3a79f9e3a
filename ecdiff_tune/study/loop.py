"""Runs a search: ask, evaluate, score, tell, until done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import counted
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import (
    Scorer,
    Stage,
    Trial,
    stage_name,
)
from ecdiff_tune.search import Search
from ecdiff_tune.search.base import Result
from ecdiff_tune.search.generator_search import Scripted
from ecdiff_tune.study.progress import Progress

if TYPE_CHECKING:
    from ecdiff_tune.evaluation.evaluator import Evaluator


class NoWinnerError(ECDiffError):
    """No config of the space can be used."""


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
    origins = search.origins if isinstance(search, Scripted) else {}

    def number_of(candidate: Candidate) -> int:
        """Optuna's number where its study has one, so that both say the same."""
        own = origins[candidate].number if candidate in origins else len(numbers) + 1
        return numbers.get(candidate, own)

    trials: dict[Candidate, Trial] = {}
    unfinished: dict[Candidate, Trial] = {}
    best: Trial | None = None
    while not search.done:
        ask = search.ask()
        number = number_of(ask.candidates[0])
        progress.start_trials(stage, number, ask, evaluator.missing(ask.candidates, ask.prompts))
        found = evaluator.measure(ask.candidates, progress.prompts_done, ask.prompts)
        results = []
        for candidate, measured in zip(ask.candidates, found, strict=True):
            number = numbers.setdefault(candidate, number_of(candidate))
            trial = _trial(stage, number, candidate, evaluator.plan(candidate), tuple(measured), scorer)
            if candidate in origins:
                trial = replace(trial, suggested_s=origins[candidate].s)
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
        f"{shown(best)} at best and {fastest:.3g} s a picture at least, and none wins. Loosen "
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
