"""batch_size=auto: which size is chosen, when the trying ends, and that a study keeps it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from ecdiff_core import batch_size
from ecdiff_core.batch_size import TIMED_CALLS, BatchSizeError, best, kept, throughputs
from ecdiff_core.models.memory import OutOfMemoryError
from ecdiff_core.pipeline import ECDiffPipeline

from ...refusals import refused
from ..conftest import Calls
from ..studies import Study, refuses

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
Tried = list[int]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """The sizes that were tried; calls a second rise up to 8 at a time, and memory ends at 32."""
    sizes: Tried = []

    def timed(_: object, size: int) -> float:
        sizes.append(size)
        if size >= 32:
            raise FULL
        return float(min(size, 8))

    monkeypatch.setattr(batch_size, "_timed", timed)
    return sizes


def test_the_smallest_of_the_nearly_fastest() -> None:
    assert best({1: 10.0}) == 1
    assert best({1: 10.0, 2: 10.4, 4: 10.2}) == 1
    assert best({1: 10.0, 2: 19.0, 4: 30.0, 5: 28.0}) == 4


def test_sizes_are_doubled_until_it_brings_nothing(pipe: ECDiffPipeline, tried: Tried) -> None:
    calls: Counter[str] = Counter()
    rates = throughputs(pipe, 100, calls)
    assert tried == [1, 2, 4, 8, 16, 32]  # 16 brought nothing, and once may be chance
    assert rates == {1: 1, 2: 2, 4: 4, 8: 8, 16: 8}
    assert best(rates) == 8
    assert calls == {"cloud": 31 * (1 + TIMED_CALLS)}


def test_never_more_than_there_are_prompts(pipe: ECDiffPipeline, tried: Tried) -> None:
    throughputs(pipe, 6, Counter())
    assert tried == [1, 2, 4, 6]
    tried.clear()
    throughputs(pipe, 1, Counter())
    assert tried == [1]


def test_memory_ends_it(pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(_: object, size: int) -> float:
        if size > 2:
            raise FULL
        return float(size)

    monkeypatch.setattr(batch_size, "_timed", timed)
    assert best(throughputs(pipe, 100, Counter())) == 2

    def never(*_: object) -> float:
        raise FULL

    monkeypatch.setattr(batch_size, "_timed", never)
    with refused(OutOfMemoryError, key="memory"):
        throughputs(pipe, 100, Counter())

    def broken(*_: object) -> float:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(batch_size, "_timed", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        throughputs(pipe, 100, Counter())


def test_the_calls_are_those_that_are_counted(pipe: ECDiffPipeline, calls: Calls) -> None:
    counted: Counter[str] = Counter()
    rates = throughputs(pipe, 2, counted)
    assert all(rate > 0 for rate in rates.values())
    assert calls.both == (len(rates) * (1 + TIMED_CALLS), 0)
    assert counted == {"cloud": sum(rates) * (1 + TIMED_CALLS)}


def test_a_study_keeps_what_was_found(study: Study, tried: Tried) -> None:
    first = study("reference", "batch_size=auto")
    assert first.status == 0, first
    assert tried == [1, 2, 3]  # there are three prompts
    assert "batch_size=auto: 3 (cloud calls a second by batch size 1: 1, 2: 2, 3: 3)\n" in first.out
    file = study.folder / "batch_size.json"
    file.write_text(json.dumps({"batch_size": 2}), encoding="utf-8")
    again = study("reference", "batch_size=auto")
    assert "batch_size=auto: 2, as found before\n" in again.out
    assert tried == [1, 2, 3]
    file.write_text("{}", encoding="utf-8")
    refuses(study("reference", "batch_size=auto"), key=file)


def test_wallclock_needs_no_batch_size(study: Study, tried: Tried) -> None:
    assert study("reference", "batch_size=auto", "latency=wallclock").status == 0
    assert not tried
    assert not (study.folder / "batch_size.json").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "batch_size.json").write_text("3", encoding="utf-8")
    with pytest.raises(BatchSizeError):
        kept(tmp_path / "batch_size.json", dict, lambda _: None)
