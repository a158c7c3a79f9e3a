"""The Optuna study behind ``search=optuna``: where it is kept, who suggests, what it remembers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ecdiff_tune.search.options import OBJECTIVES, OptunaOptions, SearchError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """A sampler for one trial. Its draws depend on nothing but the seed, the number of trials before it and
    the study's history, so that a study goes on after a stop as if there had been none."""
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=drawn)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=drawn)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=drawn, warn_independent_sampling=False)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=drawn)
    return optuna.samplers.RandomSampler(seed=drawn)  # grid: every point is enqueued


def open_study(options: OptunaOptions) -> optuna.Study:
    """The study by its name, made if there is none; what this worker left unfinished there has failed.

    Raises:
        SearchError: the storage cannot be used, or the study is another one.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = list(options.objectives)
    directions = [StudyDirection[OBJECTIVES[name].upper()] for name in objectives]
    try:
        study = optuna.create_study(
            storage=_storage(options),
            study_name=options.study_name,
            directions=directions,
            load_if_exists=True,
        )
    except Exception as error:  # of whatever stands behind the URL
        told = str(error).splitlines() or [type(error).__name__]
        raise SearchError(f"Cannot use search.storage={options.storage}: {told[0]}") from error
    if study.metric_names not in (None, objectives):
        raise SearchError(
            f"The Optuna study {options.study_name} has the objectives {study.metric_names}, expected "
            f"{objectives}: choose another search.study_name."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(objectives)
    for left in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if left.user_attrs.get("worker", options.worker) == options.worker:
            study.tell(left.number, state=TrialState.FAIL)
    return study


def finished(study: optuna.Study, worker: str | None = None) -> list[FrozenTrial]:
    """The trials that Optuna was told of, or those of one worker."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    return [one for one in trials if worker is None or one.user_attrs["worker"] == worker]


def under_way(study: optuna.Study) -> int:
    """How many trials are finished or being measured."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def _storage(options: OptunaOptions) -> BaseStorage:
    if options.storage is None:
        return InMemoryStorage()
    if "://" in options.storage:
        return get_storage(options.storage)
    path = Path(options.storage)
    if not options.worker:
        _mend(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _mend(path: Path) -> None:
    """Take away what a killed process left of a journal that is this process's alone: a lock, half a line."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.is_file():
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            path.write_bytes(whole)
