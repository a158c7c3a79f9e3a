"""Trials in TensorBoard, W&B or MLflow, for people who watch their experiments there.

None of them is imported unless ``tracking`` names it. A search stage is a run of theirs; a trial that a
resumed study replays from its ledger is told again. Trials end out of order, and trackers drop or misplace
what goes back: a step is the count of trials that ended, and the trial's number is a value.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.evaluation.model_calls import PlanCalls

if TYPE_CHECKING:
    from ecdiff_tune.evaluation.candidate import Candidate
    from ecdiff_tune.objective import Trial

NONE = "none"
PROJECT = "ecdiff"
State = Literal["finished", "failed", "stopped"]
"""How a run ended: with a winner, by an error, or because somebody wanted it."""
PARTIAL = "partial/"
"""Before the names of what was measured on a part of the prompts alone."""


class TrackingError(ECDiffError):
    """Trials cannot be tracked as it was set."""


class Tracker(Protocol):
    """A run of one search stage."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """What came of a trial."""

    def end(self, state: State, winner: Mapping[str, Any] | None) -> None:
        """The run is over; without a winner unless it is finished."""


class _None:
    def log(self, values: Mapping[str, float], step: int) -> None:
        pass

    def end(self, state: State, winner: Mapping[str, Any] | None) -> None:
        pass


class _TensorBoard:
    """Event files in ``tensorboard/`` of the study's folder."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard" / name.rpartition("/")[2]))
        self._writer.add_text("settings", _as_text(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, state: State, winner: Mapping[str, Any] | None) -> None:
        if winner is not None:
            self._writer.add_text("winner", _as_text(winner))
        self._writer.add_text("state", state)
        self._writer.close()


class _WandB:
    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(project=PROJECT, name=name, dir=str(folder), config=dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def end(self, state: State, winner: Mapping[str, Any] | None) -> None:
        if winner is not None:
            self._run.summary.update({"winner": dict(winner)})
        self._run.finish(exit_code=0 if state == "finished" else 1)


class _MLflow:
    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_dict(dict(settings), "settings.json")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self, state: State, winner: Mapping[str, Any] | None) -> None:
        if winner is not None:
            self._mlflow.log_dict(dict(winner), "winner.json")
        statuses = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
        self._mlflow.end_run(status=statuses[state])


TRACKERS: dict[str, tuple[Callable[[str, Path, Mapping[str, Any]], Tracker], str]] = {
    NONE: (lambda *_: _None(), ""),
    "tensorboard": (_TensorBoard, "tensorboard"),
    "wandb": (_WandB, "wandb"),
    "mlflow": (_MLflow, "mlflow"),
}
"""By the value of ``tracking``: how a run is begun, and the package that it needs."""


def check(tracking: str) -> None:
    """See that the tracker can be used, before anything is generated.

    Raises:
        TrackingError: it is unknown, or not installed.
    """
    if tracking not in TRACKERS:
        raise TrackingError.unknown("tracking", tracking, TRACKERS)
    package = TRACKERS[tracking][1]
    if package and importlib.util.find_spec(package) is None:
        raise TrackingError(f"tracking={tracking} needs {package}: pip install {package}.")


class Run:
    """One search stage as its tracker sees it."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._winner: dict[str, Any] | None = None
        self._logged = 0

    def trial(self, trial: Trial) -> None:
        """Tell of a trial that has a score; of one that was pruned with what is partial named so."""
        if trial.score is not None:
            self._logged += 1
            self._tracker.log(values_of(trial), self._logged)

    def winner(self, trial: Trial) -> None:
        """Tell of the stage's winner when the run ends."""
        self._winner = {**_config(trial.candidate), **values_of(trial)}

    def end(self, state: State) -> None:
        """The stage is over."""
        self._tracker.end(state, self._winner)


@contextmanager
def run(tracking: str, name: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Run]:
    """A run from its begin to its end; one that an error or a person ends is not called finished.

    Args:
        tracking: a name of ``TRACKERS``.
        name: of the run: pair, study and stage, divided by slashes.
        folder: of the study.
        settings: of the study, flat.
    """
    made = Run(TRACKERS[tracking][0](name, folder, settings))
    state: State = "stopped"
    try:
        yield made
        state = "finished"
    except BrokenPipeError:  # nobody reads the output any more
        raise
    except Exception:
        state = "failed"
        raise
    finally:
        made.end(state)


def values_of(trial: Trial) -> dict[str, float]:
    """The numbers of a trial: what was chosen, what it cost, what it scored."""
    assert trial.score is not None
    chosen = {
        name: value for name, value in _config(trial.candidate).items() if isinstance(value, int | float)
    }
    scored = {name: value for name, value in asdict(trial.score).items() if value is not None}
    if trial.pruned:  # efficiency and burden follow from the plan alone
        scored |= {PARTIAL + name: scored.pop(name) for name in ("quality", "objective")}
    counts = {"trial": trial.number, "prompts": len(trial.measurements)}
    return {**counts, **chosen, **asdict(PlanCalls.of(trial.plan)), **scored, "seconds": trial.seconds}


def _config(candidate: Candidate) -> dict[str, Any]:
    params = candidate.params.tree()
    return {**params, "estimator": candidate.estimator, "handoff_adapter": candidate.handoff_adapter}


def _as_text(tree: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(dict(tree), indent=2, default=str)}\n```"
