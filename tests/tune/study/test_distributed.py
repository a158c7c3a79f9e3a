"""Several ranks give the result of one process, whatever happens to them. A rank is a fork of the test."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ecdiff_core.errors import NonFiniteLatentsError
from ecdiff_tune.evaluation import ranks, reference_runs
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger, LedgerError
from ecdiff_tune.forecast import reference_placement
from ecdiff_tune.study import references as study_references

from ..studies import Outcome, Study

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

Doom = Callable[[], None]
AGAIN = "What was measured is kept: run the same command again, on any number of ranks, to go on from here."


def launcher(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Running:
    """A command on several ranks."""

    processes: list[Any]
    answers: list[Connection]

    def wait(self, seconds: float = 600) -> list[Outcome]:
        """What every rank left; of one that was killed the signal, negative, as the status."""
        outcomes = []
        for process, answer in zip(self.processes, self.answers, strict=True):
            process.join(seconds)
            assert process.exitcode is not None, "a rank hangs"
            try:
                outcomes.append(answer.recv())
            except EOFError:
                outcomes.append(Outcome(process.exitcode, "", ""))
        return outcomes

    def signal(self, number: int) -> None:
        for process in self.processes:
            os.kill(process.pid, number)


def start(study: Study, count: int, *command: str, doom: Mapping[int, Doom] | None = None) -> Running:
    """A command on so many ranks; some prepare their doom before."""
    port, fork = free_port(), multiprocessing.get_context("fork")

    def work(rank: int, answer: Connection) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run behind a &
        os.environ.update(launcher(rank, count, port))
        (doom or {}).get(rank, lambda: None)()
        answer.send(study(*command))

    running = Running([], [])
    for rank in range(count):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=work, args=(rank, theirs))
        process.start()
        theirs.close()
        running.processes.append(process)
        running.answers.append(ours)
    return running


def run(study: Study, count: int, *command: str, doom: Mapping[int, Doom] | None = None) -> list[Outcome]:
    return start(study, count, *command, doom=doom).wait()


def before(owner: Any, name: str, happens: Callable[[Sequence[int]], None]) -> Doom:
    """Let something happen before a function is called, which is told the rows that it is called with."""

    def patch() -> None:
        original = getattr(owner, name)

        @wraps(original)
        def patched(*arguments: Any) -> Any:
            happens(arguments[-1])
            return original(*arguments)

        setattr(owner, name, patched)

    return patch


def killed_at(owner: Any, name: str, number: int) -> Doom:
    """Be killed at the n-th call of a function."""
    left = [number]

    def happens(_: Sequence[int]) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    return before(owner, name, happens)


def measured(study: Study) -> list[tuple[Any, ...]]:
    """The rows of the ledger but for their seconds."""
    with closing(sqlite3.connect(study.folder / "ledger.sqlite")) as database, database:
        rows = database.execute("SELECT * FROM measurements ORDER BY 1, 2, 3, 4, 5, 6, 7, 8").fetchall()
    return [row[:-1] for row in rows]


def references(study: Study) -> dict[str, dict[str, Any]]:
    """Everything in the reference files but the seconds."""
    paths = (study.outputs / "tiny" / "reference").rglob("*.safetensors")
    return {
        path.name: {name: one.tolist() for name, one in load_file(path).items() if name != "seconds"}
        for path in paths
    }


def equal(study: Study, done: Study) -> bool:
    assert study.bytes() == done.bytes()
    assert measured(study) == measured(done)
    return True


@pytest.fixture
def fresh(study: Study, done: Study) -> Study:
    """Nothing but a latency profile and the date of the undisturbed study."""
    shutil.copy(done.folder / "study.json", study.folder)
    return study


@pytest.fixture
def referenced(done: Study, tmp_path: Path) -> Study:
    """The same with the undisturbed study's references."""
    return done.copy(tmp_path / "referenced", "study.json", "latency.json")


def test_two_ranks_do_what_one_does(fresh: Study, done: Study, tmp_path: Path) -> None:
    generated = tmp_path / "generated"

    def keep(rows: Sequence[int]) -> None:
        with generated.open("a") as file:
            print([*rows], file=file)

    def both() -> None:
        before(Evaluator, "_generate", keep)()
        before(reference_runs, "_generate", keep)()

    first, second = run(fresh, 2, "tune", doom={1: both})
    assert (first.status, first.err) == (0, ""), first
    assert second == Outcome(0, "", "")
    assert "2 ranks share 3 prompts in 2 batches: about 1/2 of the times predicted below\n" in first.out
    rows = generated.read_text().splitlines()
    assert set(rows) == {"[2]"}  # the second batch, of every trial
    assert len(rows) > 5
    assert equal(fresh, done)
    assert references(fresh) == references(done)
    samples = "samples.png"
    assert (fresh.folder / samples).read_bytes() == (done.folder / samples).read_bytes()
    assert {path.name for path in fresh.folder.glob(".*")} == {".lock"}  # neither states nor copies


@pytest.mark.usefixtures("unshown")
@pytest.mark.parametrize("full_runs", [3, 1])
def test_a_search_that_predicts(
    full_runs: int, fresh: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_references, "FULL_RUNS", full_runs)  # with 1, the others are placed
    monkeypatch.setattr(reference_placement, "BOUND", 1.0)
    (fresh.folder / "study.json").unlink()  # of another search
    alone = fresh.copy(tmp_path / "alone")
    few = ("search.k=[2]", "search.finalists=3", "search.front=2")
    joint = ("tune", "search=joint", "search.s=[7,9]", "heldout.num_prompts=0", *few)
    assert alone(*joint).status == 0
    assert [one.status for one in run(fresh, 2, *joint)] == [0, 0]
    assert references(fresh) == references(alone)
    assert any("along" in name for name in references(fresh))
    assert any("placed" in name for name in references(fresh)) == (full_runs < 3)
    assert measured(fresh) == measured(alone)


@pytest.mark.usefixtures("unshown")
def test_ranks_that_die(referenced: Study, done: Study) -> None:
    dead, other = run(referenced, 2, "tune", doom={0: killed_at(Ledger, "append_all", 3)})
    assert dead.status == -signal.SIGKILL
    assert (other.status, other.out) == (2, "")
    assert other.err == f"error: A rank ended before its work was done (rank 1 has noticed it). {AGAIN}\n"
    assert 0 < referenced.rows() < done.rows()

    rows = referenced.rows()
    other, dead = run(referenced, 2, "tune", doom={1: killed_at(Evaluator, "_generate", 2)})
    assert dead.status == -signal.SIGKILL
    assert other.status == 2
    assert other.err == f"error: A rank ended before its work was done (rank 0 has noticed it). {AGAIN}\n"
    assert list(referenced.folder.glob(".rank-*"))
    assert rows < referenced.rows() < done.rows()

    outcome = referenced("tune")
    assert outcome.status == 0, outcome
    assert equal(referenced, done)
    assert not list(referenced.folder.glob(".rank-*"))  # what the dead rank had left


@pytest.mark.usefixtures("unshown")
def test_more_ranks_than_batches_after_one_process(referenced: Study, done: Study) -> None:
    assert referenced("stage1").status == 0
    outcomes = run(referenced, 3, "tune")
    assert [one.status for one in outcomes] == [0, 0, 0], outcomes
    assert "; ranks without a batch: 1, fewer with batch_size=1\n" in outcomes[0].out
    assert equal(referenced, done)


@pytest.mark.usefixtures("unshown")
def test_a_batch_size_that_was_found(referenced: Study, done: Study) -> None:
    (referenced.folder / "batch_size.json").write_text('{"batch_size": 2}', encoding="utf-8")
    first, second = run(referenced, 2, "tune", "batch_size=auto")
    assert (first.status, second.status) == (0, 0), first
    assert "2 ranks share 3 prompts in 2 batches" in first.out
    assert equal(referenced, done)


def test_a_refusal_is_told_once(done: Study) -> None:
    for setting, told in (("seed=1", "has other settings"), ("latency=wallclock", "which 2 ranks do not do")):
        study = f"study={'default' if 'seed' in setting else 'timed'}"
        first, second = run(done, 2, "tune", "search=greedy", setting, study)
        (line,) = first.err.splitlines()
        assert told in line
        assert (first.status, second) == (2, Outcome(2, "", ""))
    first, second = run(done, 2, "tune", "batchsize=3")
    assert "batch_size" in first.err
    assert (first.status, second) == (2, Outcome(2, "", ""))


@pytest.mark.usefixtures("unshown")
def test_an_error_of_a_worker(fresh: Study) -> None:
    def not_finite(_: Sequence[int]) -> None:
        raise NonFiniteLatentsError("not finite", key="dtype")

    first, second = run(fresh, 2, "reference", doom={1: before(reference_runs, "_generate", not_finite)})
    assert (first.status, first.err) == (2, "error: not finite\n")
    assert second == Outcome(2, "", "")

    def mistake(_: Sequence[int]) -> None:
        raise KeyError("a bug")

    first, second = run(fresh, 2, "reference", doom={1: before(reference_runs, "_generate", mistake)})
    assert first.err == "error: Rank 1 failed (KeyError); its traceback is above.\n"
    assert (first.status, second.status) == (2, 2)
    assert second.err.startswith("Traceback")
    assert second.err.endswith("KeyError: 'a bug'\n")


@pytest.mark.usefixtures("unshown")
def test_an_error_of_rank_0_while_another_works(referenced: Study) -> None:
    def full(_: object) -> None:
        raise LedgerError("no space left", key="ledger")

    def hasty() -> None:
        ranks.GOODBYE_SECONDS = 0.1
        before(Ledger, "append_all", full)()

    late = before(Ledger, "append_all", lambda _: time.sleep(0.6))
    first, second = run(referenced, 2, "stage1", doom={0: hasty, 1: late})
    assert (first.status, first.err) == (2, "error: no space left\n")
    assert second.status == 2
    assert second.err == f"error: A rank ended before its work was done (rank 1 has noticed it). {AGAIN}\n"


def test_commands_that_rank_0_does_alone(done: Study) -> None:
    first, second = run(done, 2, "table5")
    assert first.status == 0
    assert "tiny" in first.out
    assert second == Outcome(0, "", "")


@pytest.mark.usefixtures("unshown")
@pytest.mark.parametrize(
    ("number", "statuses", "told"),
    [
        (signal.SIGINT, (130, 130), "stopped; run the same command again to go on from here"),
        (
            signal.SIGTERM,
            (2, -15),
            "error: Stopped from outside, as launchers do when a rank has ended. " + AGAIN,
        ),
    ],
)
def test_stopped_from_outside(referenced: Study, number: int, statuses: tuple[int, int], told: str) -> None:
    running = start(referenced, 2, "tune")
    deadline = time.monotonic() + 600
    while not referenced.rows():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.signal(number)
    first, second = running.wait(600)
    assert (first.status, second.status) == statuses, (first, second)
    assert first.err.strip() == told
    assert second.err == ""
