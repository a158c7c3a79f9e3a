"""The closing sentence's comparison: the cloud alone with as many steps as take the winner's time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.experiments.baselines import equal_cost_steps
from ecdiff_tune.study.spending import FEWER_STEPS

from ..studies import ROUNDED, Outcome, Study, draw_nothing


def test_the_closing_sentence_compares_with_fewer_steps(
    tuned: tuple[Study, Outcome], latency: LatencyProfile
) -> None:
    done, outcome = tuned
    config = done.config()
    assert config.score is not None
    found, steps = config.score["heldout"]["fewer_steps"], equal_cost_steps(latency, config.plan())
    assert (found["steps"], found["num_prompts"]) == (steps, 2)
    with closing(Ledger(done.folder / "ledger.sqlite")) as ledger:
        (key,) = [one for one in ledger.configs() if one.sampler == f"DDIMScheduler {steps}"]
        ssims = [one.ssim for one in ledger.read(key).values() if one.ssim is not None]
    assert found["quality"] == pytest.approx(fmean(ssims), abs=ROUNDED)
    assert found["tuned"] == config.score["heldout"]["quality"]  # on the same prompts, which are all
    assert f"fewer DDIM steps at the same time ({steps}) give {found['quality']:.3f}" in outcome.out


def test_its_calls_are_counted_and_made_once(
    done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    config, calls = done.config(), pd.read_csv(done.folder / "calls.csv").set_index("part")
    assert config.score is not None
    steps = config.score["heldout"]["fewer_steps"]["steps"]
    assert calls.loc[FEWER_STEPS, ["cloud", "edge", "decode"]].tolist() == [2 * steps, 0, 2]
    again = done.copy(tmp_path / "again")
    again("tune", "search=greedy", "heldout.fewer_steps=1")  # of which the ledger has both
    made = pd.read_csv(again.folder / "calls.csv")
    assert made[made["run"] == made["run"].iloc[-1]]["cloud"].sum() == 0
    score = again.config().score
    assert score is not None
    assert score["heldout"]["fewer_steps"]["num_prompts"] == 1
    again("tune", "search=greedy", "heldout.fewer_steps=0")
    score = again.config().score
    assert score is not None
    assert "fewer_steps" not in score["heldout"]
