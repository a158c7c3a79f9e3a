"""Runs a search: ask, evaluate, score, tell, until done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import counted
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Scorer, Stage, Trial, stage_name
from ecdiff_tune.search import Search
from ecdiff_tune.search.base import Ask, Result
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
    on_rung: Callable[[Sequence[Trial]], None] = lambda _: None,
    on_ask: Callable[[Ask], None] = lambda _: None,
) -> Trial:
    """Evaluate what the search asks for until it is done; the winning trial.

    Stage 1 has no s, so its burden is a constant and is left out. A search that is run again over the same
    ledger replays its trials without generating anything.

    Args:
        on_trial: called with every trial that was measured on all prompts or pruned.
        on_rung: called with those that were measured on some prompts together.
        on_ask: called with what is asked for, before it is measured.

    Raises:
        NoWinnerError: no config won.
    """
    numbers: dict[Candidate, int] = {}

    def number_of(candidate: Candidate) -> int:
        """Optuna's number where its study has one, so that both say the same."""
        origin = search.origins.get(candidate)
        return numbers.get(candidate, len(numbers) + 1 if origin is None else origin.number)

    trials: dict[Candidate, Trial] = {}
    unfinished: dict[Candidate, Trial] = {}
    best: Trial | None = None
    while not search.done:
        ask = search.ask()
        on_ask(ask)
        configs = [evaluator.resolve(one) for one in ask.candidates]
        missing = evaluator.missing(configs, ask.prompts)
        progress.start_trials(stage, number_of(ask.candidates[0]), ask, missing)
        found = evaluator.measure(configs, progress.prompts_done, ask.prompts)
        results, part = [], list[Trial]()
        for config, measured in zip(configs, found, strict=True):
            candidate = config.candidate
            number = numbers.setdefault(candidate, number_of(candidate))
            trial = scorer.trial(stage, number, config, measured)
            if origin := search.origins.get(candidate):
                trial = replace(trial, suggested_s=origin.s)
            results.append(Result(trial.value, scorer.values(trial), trial.score, measured))
            if ask.prompts is not None:
                unfinished[candidate] = trial
                part.append(trial)
                continue
            unfinished.pop(candidate, None)
            trials[candidate] = trial
            progress.end_trial(trial)
            on_trial(trial)
            loser, best = (trial, best) if best and trial.value <= best.value else (best, trial)
            if stage == 1 and loser is not None:
                evaluator.forget(loser.config)
        if part:
            progress.end_rung(part)
            on_rung(part)
        search.tell(results)
        for candidate in [one for one in unfinished if one in search.pruned]:
            trial = replace(unfinished.pop(candidate), pruned=search.pruned[candidate])
            on_trial(trial)
            if stage == 1:
                evaluator.forget(trial.config)
    if search.best in unfinished:  # the race was settled on some prompts, which all that are left have seen
        trials |= unfinished
        for trial in unfinished.values():
            progress.end_trial(trial)
            on_trial(trial)
    if reasons := [why for one, why in search.pruned.items() if one not in trials]:
        progress.log(_describe_pruned(reasons, len(trials)))
    if search.best is None:
        line = f"The {stage_name(stage)} has no winner: {_why_none_won(list(trials.values()))}"
        raise NoWinnerError(line, key="stage", got=stage)
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
            f"none of {counted(len(trials), 'config')} has finite images. Try dtype=float32, or "
            "other search.k and search.alpha."
        )
    best, fastest = max(one.quality for one in scored), min(one.seconds for one in scored)
    return (
        f"{len(scored)} of {counted(len(trials), 'config')} with finite images, a quality of "
        f"{shown(best)} at best and {fastest:.3g} s an image at least, and none wins. Loosen "
        "search.min_quality or search.max_seconds if you set one, search more (search.k, search.alpha, "
        "search.s, search.cloud_calls, search.trials), or raise objective.w1."
    )


def _describe_pruned(reasons: Sequence[str], measured: int) -> str:
    """How many candidates were pruned and why, the most frequent reason first."""
    parts = ", ".join(f"{count} by {reason}" for reason, count in Counter(reasons).most_common())
    total = len(reasons) + measured
    return f"of {counted(total, 'config')} pruned: {len(reasons)} ({parts}), measured whole: {measured}"
