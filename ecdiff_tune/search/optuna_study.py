"""The Optuna study behind ``search=optuna``: where it is kept, who suggests, what it remembers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ecdiff_tune.search.options import OBJECTIVES, OptunaOptions, SearchError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def make_sampler(name: str, seed: int, number: int, worker: str = "") -> BaseSampler:
    """A sampler for one trial. Its draws depend on nothing but the seed, the number of trials before it, the
    worker and the study's history, so that a study goes on after a stop as if there had been none."""
    entropy = [seed, number, *worker.encode()]
    drawn = int(np.random.SeedSequence(entropy).generate_state(1)[0])
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
    with _usable(options):
        study = optuna.create_study(
            storage=_storage(options),
            study_name=options.study_name,
            directions=directions,
            load_if_exists=True,
        )
    if study.metric_names not in (None, objectives):
        raise SearchError(
            f"The Optuna study {options.study_name} has the objectives {study.metric_names}, expected "
            f"{objectives}: choose another search.study_name.",
            key="search.study_name",
            got=study.metric_names,
            expected=objectives,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(objectives)
    for left in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        # Where others work, one that has no worker yet may be theirs; it is watched.
        if left.user_attrs.get("worker") == options.worker or not options.worker:
            study.tell(left.number, state=TrialState.FAIL)
    return study


def study_names(options: OptunaOptions) -> list[str]:
    """Of all studies in the storage.

    Raises:
        SearchError: the storage cannot be used.
    """
    with _usable(options):
        return optuna.get_all_study_names(_storage(options))


@contextmanager
def _usable(options: OptunaOptions) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whatever stands behind the URL
        reason = str(error).splitlines() or [type(error).__name__]
        line = f"Cannot use search.storage={options.storage}: {reason[0]}"
        raise SearchError(line, key="search.storage", got=options.storage) from error


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have ended."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def under_way(study: optuna.Study) -> int:
    """How many trials are finished or being measured."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def _storage(options: OptunaOptions) -> BaseStorage:
    if options.storage is None:
        return InMemoryStorage()
    if "://" in options.storage:
        return get_storage(options.storage)
    path = Path(options.storage)
    if not options.worker:  # the file is this process's alone: who left a lock there is dead
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
    lock = _MendingLock(path)
    if path.is_file() and lock.acquire():  # before it is read
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


class _MendingLock(JournalFileSymlinkLock):
    """A journal's lock; who gets it takes away the half line that a killed process left, which would spoil
    what is written after it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        acquired = super().acquire()
        with self._path.open("rb+") as journal:
            end = journal.seek(0, os.SEEK_END)
            start = max(0, end - 1)
            journal.seek(start)
            if journal.read(1) not in (b"", b"\n"):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return acquired
