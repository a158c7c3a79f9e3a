"""A study that is stopped at any moment ends as one that was not."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecdiff_tune.evaluation.ledger import Ledger

from ..studies import Study, draw_samples_alone

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def kill_before_rename(name: str, number: int = 1) -> None:
    """Let this process be killed when it has written, but not yet renamed, its n-th file of that name."""
    rename, left = Path.replace, [number]

    def replace_or_die(part: Path, target: Path) -> Path:
        left[0] -= Path(target).match(name)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(part, target)

    Path.replace = replace_or_die  # type: ignore[method-assign, assignment]


def kill_after_append(number: int) -> None:
    """Let this process be killed when the ledger has n more batches."""
    append, left = Ledger.append_all, [number]

    def append_or_die(ledger: Ledger, *rows: object) -> None:
        append(ledger, *rows)  # type: ignore[arg-type]
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.append_all = append_or_die  # type: ignore[method-assign, assignment]


MOMENTS: list[tuple[Callable[..., None], tuple[object, ...]]] = [
    (kill_before_rename, ("*.safetensors", 2)),  # in the middle of the reference's first batch
    (kill_before_rename, ("*.safetensors", 2)),  # and of what was left
    (kill_after_append, (3,)),  # in the middle of the second trial
    (kill_before_rename, ("trials.csv", 3)),
    (kill_before_rename, ("stage1.yaml",)),
    (kill_after_append, (4,)),
    (kill_before_rename, ("ecdiff.yaml",)),
    (kill_before_rename, ("samples.png",)),
]


def tune_until(study: Study, doom: Callable[..., None], details: tuple[object, ...]) -> None:
    doom(*details)
    study("tune")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_again_and_again(done: Study, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_samples_alone(monkeypatch)  # in the forks too
    shutil.copy(done.folder / "study.json", study.folder)  # the same date in the YAML files
    for doom, details in MOMENTS:
        process = multiprocessing.get_context("fork").Process(target=tune_until, args=(study, doom, details))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (doom, details)
    outcome = study("tune")
    assert outcome.status == 0, outcome
    assert study.bytes() == done.bytes()
    assert study.rows() == done.rows()


def wait_for(happened: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


WATCHED = """
import atexit, sys
from ecdiff_tune.__main__ import main
trackers = {"mlflow", "tensorboard", "torch.utils.tensorboard", "wandb"}
atexit.register(lambda: print("imported", *trackers & set(sys.modules)))
sys.exit(main())
"""
"""The command, and which trackers it imports: none of them is chosen."""


def test_interrupted(done: Study, tmp_path: Path) -> None:
    study = done.copy(tmp_path / "outputs", "latency.json")
    more = "search.k=[1,2,3,4,5]"  # so that it is not done where this process is kept from looking
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, "tune", *study.settings, more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run behind a &
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(lambda: study.rows() > 0 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, out + err
    stopped = "stopped; run the same command again to go on from here"
    assert err.split("\n") == ["ecdiff: loading …", "", stopped, ""], "the first line before anything heavy"
    assert study.rows() > 0
    assert not (study.folder / "samples.png").exists()  # the last file; ecdiff.yaml may hold an early answer
    assert "3 prompts to tune on, 2 held out" in out
    assert out.splitlines()[-1] == "imported"
