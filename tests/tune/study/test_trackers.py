"""Trials told to trackers: what they hear, and that none is imported unless it was chosen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.objective import Score, Trial
from ecdiff_tune.study import trackers

from ..studies import Study, refuses

PARAMS = ECDiffParams(3, 2, 0.3, 9)
SETTINGS = {"seed": 0, "search.k": [1, 2], "search.p": None}
STORED = {"seed": 0, "search.k": "[1, 2]", "search.p": "null"}
EXPECTED = {
    "trial": 4,
    "prompts": 2,
    "p": 3,
    "k": 2,
    "alpha": 0.3,
    "s": 9,
    "cloud_calls": 5,
    "approximated": 4,
    "edge_calls": 3,
    "quality": 0.9,
    "efficiency": 0.5,
    "objective": 0.42,
    "seconds": 0.2,
}


def trial(number: int, score: Score | None, pruned: str = "") -> Trial:
    measured = (Measurement(0.9, 30.0, 0.1),) * (1 if pruned else 2)
    return Trial(1, number, Candidate(PARAMS).resolve(12, "aligned"), measured, 0.2, score, pruned)


GOOD = trial(4, Score(0.9, 0.5, None, 0.42))
PRUNED = trial(1, Score(0.8, 0.5, None, 0.32), "race after 1 prompts")
PARTLY = {
    **{name: value for name, value in EXPECTED.items() if name not in ("quality", "objective")},
    "trial": 1,
    "prompts": 1,
    "partial/quality": 0.8,
    "partial/objective": 0.32,
}


def told(tracking: str, folder: Path) -> None:
    """A run of three trials that end out of order: the best, one without a score, one that is pruned."""
    with trackers.run(tracking, "tiny/default/stage 1", folder, SETTINGS) as run:
        run.trial(GOOD)
        run.trial(trial(2, None))
        run.trial(PRUNED)
        run.winner(GOOD)


WINNER = {f"winner/{name}": value for name, value in EXPECTED.items()}
WORDS = {"winner/estimator": "gradient", "winner/handoff_adapter": "identity"}


class Computed(list[tuple[Any, ...]]):
    """A module whose functions note how they were called."""

    def module(self, *names: str, **more: Any) -> Any:
        def noting(name: str) -> Any:
            return lambda *args, **kwargs: self.append((name, *args, kwargs))

        return SimpleNamespace(**{name: noting(name) for name in names}, **more)

    def wandb(self) -> Any:
        run = self.module("log", "finish")

        def init(**kwargs: Any) -> Any:
            self.append(("init", kwargs))
            return run

        return SimpleNamespace(init=init, config=self.module("update"))

    def mlflow(self) -> ModuleType:
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
        fake = ModuleType("mlflow")
        functions = self.module("start_run", "log_params", "log_metrics", "end_run")
        vars(fake).update(vars(functions), utils=SimpleNamespace(validation=limits))
        vars(fake).update(search_experiments=lambda **_: [SimpleNamespace(experiment_id="7")])
        fake.__spec__ = importlib.util.spec_from_loader("mlflow", None)
        return fake


def test_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    computed = Computed()
    monkeypatch.setitem(sys.modules, "wandb", computed.wandb())
    told("wandb", tmp_path)
    assert computed == [
        ("init", {"project": "ecdiff", "name": "tiny/default/stage 1", "dir": str(tmp_path)}),
        ("update", STORED, {"allow_val_change": True}),
        ("log", EXPECTED, {"step": 1}),
        ("log", PARTLY, {"step": 2}),
        ("log", WINNER, {"step": 2}),
        ("log", WORDS, {"step": 2}),
        ("finish", {"exit_code": 0}),
    ]


def test_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    computed = Computed()
    monkeypatch.setitem(sys.modules, "mlflow", computed.mlflow())
    told("mlflow", tmp_path)
    (begun, *calls) = computed
    assert begun[0] == "start_run"
    assert (begun[1]["run_name"], begun[1]["experiment_id"]) == ("tiny/default/stage 1", "7")
    assert calls == [
        ("log_params", STORED, {}),
        ("log_metrics", EXPECTED, {"step": 1}),
        ("log_metrics", PARTLY, {"step": 2}),
        ("log_metrics", WINNER, {"step": 2}),
        ("log_params", WORDS, {}),
        ("end_run", {"status": "FINISHED"}),
    ]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage 1")).Reload()
    assert set(events.Tags()["scalars"]) == {*EXPECTED, *PARTLY, *WINNER}
    assert {f"{name}/text_summary" for name in (*WORDS, "state")} == set(events.Tags()["tensors"])
    assert [one.step for one in events.Scalars("trial")] == [1, 2]
    (one,) = events.Scalars("quality")
    assert (one.step, one.value) == (1, pytest.approx(0.9))


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt, "KILLED"), (BrokenPipeError, "KILLED"), (ZeroDivisionError, "FAILED")],
)
def test_a_run_that_an_error_ends_is_not_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[BaseException], status: str
) -> None:
    computed = Computed()
    modules = {"mlflow": computed.mlflow(), "wandb": computed.wandb()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        with pytest.raises(error), trackers.run(name, "tiny/default/stage 1", tmp_path, SETTINGS):
            raise error
    ends = [one for one in computed if one[0] in ("end_run", "finish")]
    assert ends == [("end_run", {"status": status}), ("finish", {"exit_code": 1})]


@pytest.mark.usefixtures("unshown")
def test_a_whole_tune_is_told(done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Computed()
    monkeypatch.setitem(sys.modules, "mlflow", computed.mlflow())
    again = done.copy(tmp_path / "outputs")
    outcome = again("tune", "tracking=mlflow")  # free to change: nothing is measured anew
    assert outcome.status == 0, outcome
    runs = [one[-1]["run_name"] for one in computed if one[0] == "start_run"]
    assert runs == ["tiny/default/stage 1", "tiny/default/stage 2"]
    trials = again.trials()
    logged = [one for one in computed if one[0] == "log_metrics" and "trial" in one[1]]
    assert [one[1]["trial"] for one in logged] == trials["trial"].tolist()
    assert [one[-1]["step"] for one in logged] == trials["trial"].tolist()  # here they end in order
    assert [one[1]["objective"] for one in logged] == pytest.approx(trials["objective"].tolist())


def test_what_is_refused(study: Study) -> None:
    refuses(study("tune", "tracking=wandbb"), key="tracking", nearest="wandb")
    if importlib.util.find_spec("wandb") is None:
        refuses(study("tune", "tracking=wandb"), key="tracking", expected=["wandb"])
