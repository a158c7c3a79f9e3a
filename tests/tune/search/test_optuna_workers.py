"""Several processes that work on one Optuna study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ecdiff_core.config import TunedConfig
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.search import Space, optuna_workers
from ecdiff_tune.search.base import Ask, Context, Records, Result
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.optuna_study import open_study
from ecdiff_tune.search.optuna_trial import MEASUREMENTS
from ecdiff_tune.search.spaces import Stage1Space
from ecdiff_tune.search.suggest import Dimensions
from ecdiff_tune.study.optuna_setup import agree

from ..recorded_study import RecordedStudy
from ..studies import Study, refuses
from ..worlds import JOINT, OBJECTIVES, World

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
FEW = Stage1Space(7, (1, 2, 3), (0.3, 0.5, 0.7), 50)
fork = multiprocessing.get_context("fork")
AT_ONCE = pytest.mark.parametrize("storage", ["journal"], indirect=True)
"""SQLite's file stays locked for too long where workers write at once: it is for one after the other."""


class Ledgered(World):
    """A world that keeps what it measured, as the ledger does, and tells generations apart from memories."""

    def begin(self) -> Ledgered:
        object.__setattr__(self, "known", dict[Candidate, int]())
        object.__setattr__(self, "generated", list[tuple[Candidate, int]]())
        return self

    def context(self) -> Context:
        return replace(super().context(), records=Records(self._add))

    known: dict[Candidate, int]
    generated: list[tuple[Candidate, int]]

    def _add(self, one: Candidate, measured: Any) -> None:
        assert [row.ssim for row in measured] == list(self.values(one))[: len(measured)]
        self.known[one] = max(self.known.get(one, 0), len(measured))

    def answer(self, ask: Ask) -> list[Result]:
        return [
            replace(found, measurements=tuple(Measurement(value, 30.0, 1.0) for value in found.values))
            for found in super().answer(ask)
        ]

    def generate(self, one: Candidate, prompts: int) -> None:
        for row in range(self.known.get(one, 0), prompts):
            self.generated.append((one, row))
        self.known[one] = max(self.known.get(one, 0), prompts)


def worker(
    storage: str,
    name: str,
    answer: Any,
    together: Any,
    pause: float = 0.0,
    stop: int | None = None,
    space: Space = JOINT,
    **more: Any,
) -> None:
    """Work on the study until its end; be killed after so many asks."""
    options = Options(optuna=OptunaOptions(more.pop("trials", 16), storage=storage, worker=name, **more))
    world = Ledgered(OBJECTIVES["peak"], 10, 0.02, options).begin()
    search = world.search("optuna", space)
    together.wait()
    asks = 0
    while not search.done:
        ask = search.ask()
        time.sleep(pause)
        for one in ask.candidates:
            world.generate(one, ask.prompts or world.num_prompts)
        if asks == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        search.tell(world.answer(ask))
        asks += 1
    answer.put((name, search.best, world.generated))


def run(*workers: dict[str, Any], seconds: float = 600) -> dict[str, tuple[Candidate, list[Any]]]:
    """The best and the generations of every worker that was not killed."""
    answer = fork.Queue()
    shared = {"answer": answer, "together": fork.Barrier(len(workers), timeout=seconds)}
    processes = [fork.Process(target=worker, kwargs=shared | one) for one in workers]
    for process in processes:
        process.start()
    living = sum("stop" not in one for one in workers)
    found = [answer.get(timeout=seconds) for _ in range(living)]
    for process in processes:
        process.join(seconds)
        assert process.exitcode is not None
    return {name: (best, generated) for name, best, generated in found}


def _journal(path: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(path))


def trials(storage: str) -> list[FrozenTrial]:
    where: Any = storage if "://" in storage else _journal(storage)
    return optuna.load_study(study_name="ecdiff", storage=where).trials


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "study"
    url = f"sqlite:///{path}" if request.param == "sqlite" else str(path)
    where: Any = url if "://" in url else _journal(url)
    optuna.create_study(study_name="ecdiff", storage=where, direction="maximize")  # sqlite's tables
    return url


@AT_ONCE
def test_two_workers_end_with_the_same_best_and_generate_nothing_twice(storage: str) -> None:
    found = run(
        {"storage": storage, "name": "a", "pause": 0.03},
        {"storage": storage, "name": "b", "pause": 0.05},
    )
    (best, first), (other, second) = found["a"], found["b"]
    assert best is not None
    assert best == other
    assert first
    assert second
    assert set(first).isdisjoint(second)
    ended = [one for one in trials(storage) if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert 16 <= len(ended) <= 17, "both may begin the last one"
    assert len(ended) == len(trials(storage)), "nothing failed"
    assert {one.user_attrs["worker"] for one in ended} == {"a", "b"}
    whole = [one for one in ended if one.user_attrs.get("prompts") == 10 and MEASUREMENTS in one.user_attrs]
    top = max(whole, key=lambda one: one.values[0])
    assert Dimensions(JOINT).candidate(top.params) == best


@AT_ONCE
def test_a_grid_is_shared_out(storage: str) -> None:
    options = {"storage": storage, "sampler": "grid", "trials": 1000, "space": FEW}
    found = run({**options, "name": "a"}, {**options, "name": "b"})
    assert found["a"][0] == found["b"][0]
    assert {Dimensions(FEW).candidate(one.params) for one in trials(storage)} == set(FEW.grid)


def test_a_worker_that_dies_holds_nobody_up(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_workers, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(optuna_workers, "SILENT_SECONDS", 2.0)
    run({"storage": storage, "name": "a", "stop": 3})  # it leaves a trial that runs for ever
    found = run({"storage": storage, "name": "b"})
    assert found["b"][0] is not None
    states = [one.state for one in trials(storage)]
    assert states.count(TrialState.FAIL) == 1
    assert TrialState.RUNNING not in states
    assert len(states) - states.count(TrialState.FAIL) == 16

    again = run({"storage": storage, "name": "a"})  # all is done, and it measured but a part of it
    assert again["a"][0] == found["b"][0]
    assert again["a"][1] == [], "nothing is generated"


def turns_of(storage: str) -> optuna.Study:
    return open_study(OptunaOptions(storage=storage, study_name="ecdiff common", worker="x"))


def test_workers_that_begin_together_measure_one_latency_profile(
    tmp_path: Path, latency: LatencyProfile
) -> None:
    settings = RecordedStudy(tmp_path, latency).settings
    search = replace(settings.search, name="optuna", storage=str(tmp_path / "journal"), study_name="both")
    optuna.create_study(study_name="both", storage=_journal(str(tmp_path / "journal")), direction="maximize")
    measured: list[str] = []
    together = threading.Barrier(2)

    def begin(name: str) -> LatencyProfile:
        def profile() -> LatencyProfile:
            measured.append(name)
            time.sleep(0.2)
            return replace(latency, transfer_seconds=0.1 if name == "one" else 0.2)

        together.wait()
        return agree(study_spec(replace(settings, search=search, study=name)), {"seed": 0}, profile)

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(begin, ("one", "two"))
    assert first == second
    assert len(measured) == 1


@AT_ONCE
def test_one_worker_makes_what_is_common(storage: str) -> None:
    """Three that begin at the same moment, the slowest of which is slow."""
    made: list[str] = []
    together = threading.Barrier(3)

    def work(name: str, seconds: float) -> str:
        turns = turns_of(storage)

        def make() -> str:
            made.append(name)
            time.sleep(seconds)
            return name

        together.wait()
        return optuna_workers.once(turns, name, make)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(work, "abc", (0.1, 0.3, 0.6)))
    assert len(made) == 1
    assert found == made * 3
    assert optuna_workers.once(turns_of(storage), "d", lambda: made.append("d")) == made[0]


def test_what_is_common_outlives_who_fails_and_who_dies(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_workers, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(optuna_workers, "POLL_SECONDS", 0.05)
    turns = turns_of(storage)
    with pytest.raises(ZeroDivisionError):
        optuna_workers.once(turns, "a", lambda: 1 // 0)
    silent = turns.ask()
    silent.set_user_attr("worker", "b")
    assert optuna_workers.once(turns_of(storage), "c", lambda: "c") == "c"
    with pytest.raises(UpdateFinishedTrialError):  # it comes back, too late
        silent.set_user_attr(optuna_workers.MADE, "b")
    assert optuna_workers.once(turns, "b", lambda: "b") == "c"


# Whole studies.


@pytest.mark.usefixtures("unshown")
def test_the_same_command_twice(study: Study, tmp_path: Path) -> None:
    """The second one finds the folder taken, and all trials made."""
    shared = (
        *("search=optuna", "search.trials=5", "search.s=[7,9]", "heldout.num_prompts=0"),
        f"search.storage={tmp_path / 'journal'}",
    )
    first = study("tune", *shared)
    assert first.status == 0, first
    with FileLock(study.folder / ".lock"):  # the first one is still there
        second = study("tune", *shared)
    assert second.status == 0, second
    other = study.folder.with_name("default-2")
    assert TunedConfig.load(other / "ecdiff.yaml").params == study.config().params
    assert (other / "latency.json").read_bytes() == (study.folder / "latency.json").read_bytes()
    with (
        closing(sqlite3.connect(other / "ledger.sqlite")) as ledger,
        closing(sqlite3.connect(study.folder / "ledger.sqlite")) as mine,
    ):
        rows = "SELECT * FROM measurements ORDER BY 1, 2, 3, 4, 5"
        assert ledger.execute(rows).fetchall() == mine.execute(rows).fetchall(), "taken over, not generated"
    found = optuna.load_study(study_name="tiny/default", storage=_journal(str(tmp_path / "journal"))).trials
    artifacts = [one for one in found if any(name.startswith("artifacts:") for name in one.system_attrs)]
    assert len(artifacts) == sum(
        MEASUREMENTS in one.user_attrs and one.user_attrs["prompts"] > 0 for one in found
    )
    assert len(list((tmp_path / "journal.artifacts").iterdir())) == len(artifacts) > 0
    for one in artifacts:
        if one.state == TrialState.COMPLETE:
            low, high = one.user_attrs["quality_ci95"]
            assert low <= one.user_attrs["quality"] <= high

    before = sorted(path.name for path in study.folder.iterdir())
    refused = study("tune", *shared, "resume=false")
    refuses(refused, key="resume", got=False, line="tiny/default")
    assert sorted(path.name for path in study.folder.iterdir()) == before, "nothing is set aside"

    refused = study("tune", *shared, "study=another", "search.study_name=tiny/default", "objective.w1=0.5")
    refuses(refused, key="search.study_name", got=["objective.w1 0.3 -> 0.5"])
