"""Studies of earlier days load, and go on to the same answer without measuring anything again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_tune.cli import samples
from ecdiff_tune.evaluation import evaluator, reference_runs
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.report import page
from ecdiff_tune.report.tables import present_names
from ecdiff_tune.study import process_setup
from ecdiff_tune.study.recorded import Recorded

from . import golden
from .studies import Command, Outcome, refuses

Tune = Callable[..., Outcome]
ANEW = ("versions", "device")
"""What a YAML says of the machine."""


@pytest.fixture
def outputs(tmp_path: Path, tiny_pair: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the studies lie; from here on, whatever measures or makes a reference fails the test."""
    golden.adopt(tmp_path / "outputs", tiny_pair)
    load = process_setup.load_pair

    def load_pair(*args: Any, **kwargs: Any) -> Any:
        pair = load(*args, **kwargs)
        cloud, edge = golden.fingerprints()
        spec = replace(
            pair.spec,
            cloud=replace(pair.spec.cloud, fingerprint=cloud),
            edge=replace(pair.spec.edge, fingerprint=edge),
        )
        return replace(pair, spec=spec)

    def generated(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(process_setup, "load_pair", load_pair)
    monkeypatch.setattr(evaluator.Evaluator, "_generate", generated)
    monkeypatch.setattr(reference_runs, "_generate", generated)
    monkeypatch.setattr(latency_module, "measure", generated)
    monkeypatch.setattr(page, "write", lambda *_: tmp_path)  # nothing here is about how a study is shown
    return tmp_path / "outputs"


@pytest.fixture
def tune(command: Command, outputs: Path, tiny_pair: Path) -> Tune:
    return lambda study, *more: command("tune", *golden.arguments(study, outputs, tiny_pair), *more)


def answer(path: Path) -> dict[str, Any]:
    """What a YAML of the tuner says, but for the versions and the path it was made with."""
    config = TunedConfig.load(path)
    origin = {name: value for name, value in (config.provenance or {}).items() if name not in ANEW}
    return {"params": config.params, "sampling": config.sampling, "score": config.score, "origin": origin}


def as_told_then(then: Any, now: Any) -> Any:
    """``now`` without the keys that were not written then."""
    if not isinstance(then, dict):
        return now
    return {key: as_told_then(value, now[key]) for key, value in then.items()}


@pytest.mark.parametrize("study", ["greedy", "optuna", "predict"])
def test_goes_on_to_the_same_answer(
    tune: Tune, outputs: Path, monkeypatch: pytest.MonkeyPatch, study: str
) -> None:
    if study != "greedy":  # whose samples are kept too
        monkeypatch.setattr(samples, "write", lambda *_: None)
    folder = outputs / "tiny" / study
    yamls = [path for path in (folder / "ecdiff.yaml", folder / "stage1.yaml") if path.is_file()]
    before, trials = [answer(path) for path in yamls], present_names(pd.read_csv(folder / "trials.csv"))
    for path in (*yamls, folder / "trials.csv"):
        path.unlink()
    outcome = tune(study)
    assert outcome.status == 0, outcome
    after = [answer(path) for path in yamls]
    assert [as_told_then(*pair) for pair in zip(before, after, strict=True)] == before
    # Trials of an Optuna study have its numbers now.
    columns = [name for name in trials if (study, name) != ("optuna", "trial")]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "trials.csv")[columns], trials[columns])
    assert "this run: 0 cloud calls, 0 edge calls, 0 decodes" in outcome.out


def test_a_worker_takes_over_a_journal_of_others(
    tune: Tune, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "write", lambda *_: None)
    outcome = tune("shared")
    assert outcome.status == 0, outcome
    mine, others = answer(outputs / "tiny" / "shared" / "ecdiff.yaml"), answer(outputs / "shared.yaml")
    assert mine["params"] == others["params"]
    assert mine["score"] == {**others["score"], "cloud_share": 0.41667}  # which they did not write yet


def test_are_read_without_a_model(command: Command, outputs: Path, tiny_pair: Path) -> None:
    before = TunedConfig.load(outputs / "tiny" / "greedy" / "ecdiff.yaml")
    outcome = command("rerank", "pair.name=tiny", "study=greedy", f"output_dir={outputs}")
    assert outcome.status == 0, outcome
    again = TunedConfig.load(outputs / "tiny" / "greedy" / "rerank.yaml")
    assert (again.params, again.sampling) == (before.params, before.sampling)
    assert again.provenance is not None
    assert not again.provenance["chosen"].get("changed")  # newer settings at their defaults are no change


def test_are_shown_as_they_were_tuned(
    command: Command, outputs: Path, tiny_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Recorded] = []
    monkeypatch.setattr(page, "write", lambda record: shown.append(record) or outputs)
    outcome = command("report", "pair.name=tiny", "study=greedy", f"output_dir={outputs}")
    assert outcome.status == 0, outcome
    assert len(shown[0].trials) > 3


def test_other_settings_are_still_refused(tune: Tune) -> None:
    refuses(tune("greedy", "objective.w1=0.5"), got=["objective.w1 0.3 -> 0.5"])
