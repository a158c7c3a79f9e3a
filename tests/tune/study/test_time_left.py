"""The time left of a command, by the calls that are left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ecdiff_core.models.pair_spec import Side
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.study import progress as progress_module
from ecdiff_tune.study import spending as spending_module
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.spending import HELDOUT, REFERENCE, Spending
from ecdiff_tune.study.time_left import TimeLeft, watched


@pytest.mark.parametrize("known", [0, 60])
def test_it_is_right_after_the_first_tenth(
    tmp_path: Path, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    """Batches take a third of what single calls would; what an earlier run did takes no time."""
    now = [0.0]
    monkeypatch.setattr(spending_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    spending = Spending(tmp_path / "calls.csv")
    left = TimeLeft(spending, latency)
    left.plan(REFERENCE, 100 - known, 100 - known)
    left.plan("joint search", 200, 50)
    assert left.seconds() is None
    assert left.at_most() == pytest.approx((300 - known) * 0.020 + (150 - known) * 0.008)

    def work(cloud: int, edge: int) -> None:
        spending.calls.update(cloud=cloud, edge=edge)
        now[0] += (cloud * 0.020 + edge * 0.008) / 3

    with spending.part(REFERENCE):
        work(20, 20)
        assert left.seconds() == pytest.approx((280 - known) * 0.020 / 3 + (130 - known) * 0.008 / 3)
        work(80 - known, 80 - known)
    with spending.part("joint search"):
        work(100, 25)
        assert left.seconds() == pytest.approx((100 * 0.020 + 25 * 0.008) / 3)
    assert left.seconds() == 0  # what was planned too much for a part that is over does not come
    left.plan(HELDOUT, 30, 0)
    assert left.seconds() == pytest.approx(0.2)


def test_a_batch_under_way_is_said_from_the_first_tenth_on(
    tmp_path: Path, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is half of the work and spent only in its end; a call is of two samples a prompt."""
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(spending_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    spending, progress, model = Spending(tmp_path / "calls.csv"), Progress(lines.append), nn.Identity()
    progress.time_left = left = TimeLeft(spending, latency)
    left.plan(REFERENCE, 12 * 50, 0)
    left.plan("joint search", 12 * 50, 0)

    def called(side: Side, calls: float) -> None:
        left.called(side, calls)
        progress.calls_made()

    with spending.part(REFERENCE), watched({"cloud": model}, 2, called):
        progress.start_task("reference", 12)
        for done in range(1, 51):
            now[0] += 1.0
            model(torch.zeros(24, 1))
            assert left.seconds() == pytest.approx(100 - done)
            assert bool(lines) == (done > 10)
        spending.calls.update(cloud=600)
        assert left.seconds() == pytest.approx(50), "nothing is counted twice"
    assert lines[0] == "  reference, about 89 s left in all"
    assert len(lines) == 3, "no more often than every 15 seconds"
    model(torch.zeros(24, 1))  # nobody watches
    assert left.work() == pytest.approx((600 * 0.020, 600 * 0.020))
