"""What a ledger keeps, what it refuses, and that a killed process leaves whole batches only."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.ledger import SCHEMA_VERSION, Ledger, LedgerError, Measurement

from ...refusals import refused

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "ledger_v1.sqlite"
KEY = ConfigKey("3C2A1C2A1C3E", 0.3, "gradient", "identity")
OTHER = ConfigKey("3C2A1C2A1C3E", 0.4, "gradient", "identity")
ROWS = {
    "a": Measurement(0.9, 30.0, 0.5),
    "b": Measurement(1.0, float("inf"), 0.25),
    "c": Measurement(None, None, 0.125),
}

ANEW = "Move it away to start anew."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    opened = Ledger(path)
    yield opened
    opened.close()


def key_of(params: ECDiffParams, num_steps: int = 12, estimator: str = "gradient") -> ConfigKey:
    return ConfigKey.of(Candidate(params, estimator), plan(params, num_steps))


def test_rows_persist(ledger: Ledger, path: Path) -> None:
    ledger.append(KEY, ROWS.items())
    ledger.append(OTHER, [("a", Measurement(0.1, 1.0, 1.0))])
    ledger.close()
    again = Ledger(path)
    assert again.read(KEY) == ROWS
    assert again.read(OTHER) == {"a": Measurement(0.1, 1.0, 1.0)}
    assert again.read(ConfigKey("12C", 0.0, "", "")) == {}


def test_what_is_there_stays(ledger: Ledger) -> None:
    ledger.append(KEY, ROWS.items())
    ledger.append(KEY, [("a", Measurement(0.1, 1.0, 1.0)), ("d", Measurement(0.2, 2.0, 2.0))])
    assert ledger.read(KEY) == {**ROWS, "d": Measurement(0.2, 2.0, 2.0)}


def test_equal_images_have_equal_keys() -> None:
    base = key_of(ECDiffParams(3, 2, 0.3, 9))
    assert base == KEY
    assert base != key_of(ECDiffParams(3, 2, 0.4, 9))
    assert base != key_of(ECDiffParams(3, 2, 0.3, 12))
    assert base == key_of(ECDiffParams(3, 2, 0.3, 8))  # aligned: the same plan


def test_alpha_is_left_out_where_it_changes_nothing() -> None:
    def alphas(params: ECDiffParams, estimator: str = "gradient") -> float:
        return key_of(params, estimator=estimator).alpha

    assert alphas(ECDiffParams(3, 2, 0.3, 9), "reuse") == 0.0  # has no gradient
    assert alphas(ECDiffParams(3, 2, 0.3, 6)) == 0.0  # 3C2A1C6E: nothing is approximated after a correction
    assert alphas(ECDiffParams(3, 0, 0.3, 9)) == 0.0  # HybridSD
    assert alphas(ECDiffParams(3, 2, 0.3, 9)) == 0.3


def test_newton2_with_two_real_noises_is_secant() -> None:
    """3C3A1C5E has three real noises before its window, 2C3A1C6E but two."""
    keys = {
        (p, name): key_of(ECDiffParams(p, 3, 0.3, p + 3), estimator=name)
        for p in (2, 3)
        for name in ("secant", "newton2")
    }
    assert keys[2, "secant"] == keys[2, "newton2"]
    assert keys[3, "secant"] != keys[3, "newton2"]


def test_rows_of_version_4_get_their_keys_of_now(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        for schedule, ssim in (("2C3A1C4E", 0.5), ("2C1A1C1A3E", 0.6)):
            old = ConfigKey(schedule, 0.3, "newton2", "identity")
            ledger.append(old, [("a", Measurement(ssim, 20.0, 1.0, {"lpips": 0.1}))])
            ledger.append_timings([(old, "a", 2.0)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 4")
    with closing(Ledger(path)) as ledger:
        now = ConfigKey("2C3A1C4E", 0.3, "secant", "identity")
        assert ledger.read(now) == {"a": Measurement(0.5, 20.0, 1.0, {"lpips": 0.1})}
        assert ledger.read_timings(now) == {"a": 2.0}
        assert ledger.configs() == [ConfigKey("2C1A1C1A3E", 0.3, "newton2", "identity"), now]


def test_alphas_and_estimators_of_before_version_4_get_their_keys_of_now(path: Path) -> None:
    old = (
        "CREATE TABLE measurements (schedule, alpha, estimator, handoff_adapter, sampler, prompt, ssim, "
        "psnr, seconds)",
        "CREATE TABLE further (schedule, alpha, estimator, handoff_adapter, sampler, prompt, metric, value)",
        "CREATE TABLE timings (schedule, alpha, estimator, handoff_adapter, sampler, prompt, seconds)",
        "INSERT INTO measurements VALUES ('2C1B2M1C3E', 0.3, 'edge', 'identity', '', 'a', 0.5, 20.0, 1.0)",
        "INSERT INTO measurements VALUES ('2C1A2C1A2E', 0.3, 'gradient', 'identity', '', 'a', 0.6, 21.0, 1)",
        "INSERT INTO timings VALUES ('2C1B2M1C3E', 0.3, 'edge', 'identity', '', 'a', 2.0)",
        "PRAGMA user_version = 3",
    )
    with closing(sqlite3.connect(path)) as database, database:
        for statement in old:
            database.execute(statement)
    with closing(Ledger(path)) as ledger:
        edge = ConfigKey("2C1B2M1C3E", 0.0, "", "identity", residual=0.3)
        assert ledger.read(edge)["a"].ssim == 0.5
        assert ledger.read_timings(edge) == {"a": 2.0}
        # Two real steps before the second window: alpha does not act.
        assert ledger.read(ConfigKey("2C1A2C1A2E", 0.0, "gradient", "identity"))["a"].ssim == 0.6
        assert len(ledger.configs()) == 2


@pytest.mark.parametrize("content", [b"no ledger at all" * 500, b"SQLite format 3\0" + b"\0" * 200])
def test_a_file_of_another_kind(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with refused(LedgerError, key=path, advice=ANEW):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_ledger_cut_short(ledger: Ledger, path: Path) -> None:
    ledger.append(KEY, ((f"prompt {i}", ROWS["a"]) for i in range(5000)))
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused(LedgerError, key=path, advice=ANEW):
        Ledger(path)


def test_a_ledger_with_damaged_rows(ledger: Ledger, path: Path) -> None:
    ledger.append(KEY, ((f"prompt {i}", ROWS["a"]) for i in range(5000)))
    ledger.close()
    whole = bytearray(path.read_bytes())
    whole[8192:] = b"\xff" * (len(whole) - 8192)
    path.write_bytes(whole)
    damaged = Ledger(path)
    with refused(LedgerError, key=path, advice=ANEW):
        damaged.read(KEY)


def test_a_ledger_that_cannot_be_written(ledger: Ledger, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:  # as a full disk does
        database.execute("PRAGMA journal_mode = DELETE")
    ledger._database.execute("PRAGMA query_only = ON")
    with refused(LedgerError, key=path, advice="", line="readonly"):
        ledger.append(KEY, ROWS.items())


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with refused(LedgerError, key=path, line="unable to open"):
        Ledger(path)


def test_a_newer_version_is_refused(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with refused(LedgerError, key=path, got=SCHEMA_VERSION + 1, expected=str(SCHEMA_VERSION)):
        Ledger(path)


def test_version_1_loads_forever(path: Path) -> None:
    shutil.copy(GOLDEN, path)
    ledger = Ledger(path)
    assert ledger.read(KEY) == ROWS
    assert ledger.read(OTHER) == {"a": Measurement(0.8125, 24.5, 0.5)}
    assert ledger.read(ConfigKey("12C", 0.0, "", "")) == {"a": Measurement(1.0, float("inf"), 1.0)}
    ledger.append(OTHER, ROWS.items())
    ledger.close()
    assert Ledger(path).read(OTHER) == {**ROWS, "a": Measurement(0.8125, 24.5, 0.5)}


def test_rows_of_version_1_get_the_adapter_of_their_study(path: Path) -> None:
    shutil.copy(GOLDEN, path)
    ledger = Ledger(path, "matched")
    assert ledger.read(KEY) == {}
    assert ledger.read(replace(KEY, handoff_adapter="matched")) == ROWS
    assert ledger.read(ConfigKey("12C", 0.0, "", "")) == {"a": Measurement(1.0, float("inf"), 1.0)}


def test_version_2_loads_forever(path: Path) -> None:
    shutil.copy(DATA / "ledger_v2.sqlite", path)
    ledger = Ledger(path, "matched")  # which rows of version 2 know themselves
    secant = replace(KEY, estimator="secant", handoff_adapter="matched")
    whole = ConfigKey("12C", 0.0, "", "")
    assert ledger.configs() == [whole, KEY, secant]
    assert ledger.read(KEY) == ROWS
    assert ledger.read(secant) == {"a": Measurement(0.8125, 24.5, 0.5)}
    assert ledger.read_timings(whole) == {}
    ledger.append(whole, ROWS.items())
    ledger.close()
    again = Ledger(path)
    assert again.read(whole) == {**ROWS, "a": Measurement(1.0, float("inf"), 1.0)}
    assert again.read(KEY) == ROWS


def test_version_4_loads_forever(path: Path) -> None:
    shutil.copy(DATA / "ledger_v4.sqlite", path)
    with closing(Ledger(path)) as ledger:
        found = {
            "a": Measurement(0.9, 30.0, 0.5, {"lpips_alex": 0.25}),
            "c": Measurement(None, None, 0.125),
        }
        assert ledger.read(KEY) == found
        assert ledger.read(KEY, "3C1A2C") == {}
        assert ledger.read_timings(KEY) == {"a": 2.0}
        other = ConfigKey("2C1B2M1C3E", 0.0, "", "identity", residual=0.5)
        assert ledger.read(other) == {"a": Measurement(0.5, 20.0, 1.0)}


def test_each_reference_has_rows_of_its_own(ledger: Ledger) -> None:
    near = Measurement(0.8, 25.0, 0.5, {"lpips_alex": 0.5}, reference="3C1A2C")
    ledger.append(KEY, [("a", near), ("b", replace(near, ssim=0.7)), ("a", ROWS["a"])])
    assert ledger.read(KEY) == {"a": ROWS["a"]}
    assert ledger.read(KEY, "3C1A2C") == {"a": near, "b": replace(near, ssim=0.7)}
    assert ledger.configs() == [KEY]


def test_another_sampler_has_rows_of_its_own(ledger: Ledger) -> None:
    other = replace(KEY, sampler="EulerDiscreteScheduler 12")
    ledger.append(KEY, ROWS.items())
    ledger.append(other, [("a", Measurement(0.1, 1.0, 1.0))])
    assert ledger.read(KEY) == ROWS
    assert ledger.read(other) == {"a": Measurement(0.1, 1.0, 1.0)}
    assert ledger.configs() == [KEY, other]


def test_extra_metrics_can_come_later(ledger: Ledger) -> None:
    ledger.append(KEY, ROWS.items())
    ledger.append(KEY, [(name, Measurement(0.5, 1.0, 9.0, {"lpips_alex": 0.25})) for name in "ab"])
    ledger.append(KEY, [("a", Measurement(0.5, 1.0, 9.0, {"lpips_alex": 0.75, "clip_large": 30.0}))])
    assert ledger.read(KEY) == {
        "a": replace(ROWS["a"], extra={"lpips_alex": 0.25, "clip_large": 30.0}),
        "b": replace(ROWS["b"], extra={"lpips_alex": 0.25}),
        "c": ROWS["c"],
    }


def test_timings_persist_and_stay(ledger: Ledger, path: Path) -> None:
    ledger.append_timings([(KEY, "a", 0.5)])
    ledger.append_timings([(KEY, "a", 0.25), (KEY, "b", 0.125)])
    ledger.close()
    again = Ledger(path)
    assert again.read_timings(KEY) == {"a": 0.5, "b": 0.125}
    assert again.read_timings(OTHER) == {}
    assert again.configs() == []


def test_what_changes_nothing_is_left_out_of_a_key() -> None:
    whole, edge_only = ECDiffParams(3, 2, 0.3, 12), ECDiffParams.edge_only()
    assert ConfigKey.of(Candidate(whole, handoff_adapter="matched"), plan(whole, 12)).handoff_adapter == ""
    assert ConfigKey.of(Candidate(edge_only, "reuse", "matched"), plan(edge_only, 12)) == ConfigKey(
        "12E", 0.0, "", "matched"
    )


BATCH = 25


def append_for_ever(path: Path) -> None:
    ledger, number = Ledger(path), 0
    while True:
        key = ConfigKey(f"{number // 4}C", 0.0, "", "")
        ledger.append(key, ((f"{number % 4} {i}", ROWS["a"]) for i in range(BATCH)))
        number += 1


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("more_rows", [0, 20, 60])
def test_killed_in_the_middle_of_appends(path: Path, more_rows: int) -> None:
    writer = multiprocessing.get_context("fork").Process(target=append_for_ever, args=(path,))
    writer.start()
    assert writer.pid is not None
    deadline = time.monotonic() + 600
    while rows(path) <= more_rows:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL

    ledger = Ledger(path)
    key = ConfigKey("0C", 0.0, "", "")
    assert len(ledger.read(key)) % BATCH == 0
    ledger.append(key, [("after the kill", ROWS["c"])])
    assert ledger.read(key)["after the kill"] == ROWS["c"]
    assert rows(path) > more_rows
    assert rows(path) % BATCH == 1


def rows(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database, database:
            return database.execute("SELECT COUNT(*) FROM measurements").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet, or being written
        return 0
