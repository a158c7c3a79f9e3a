"""Trials in TensorBoard, W&B or MLflow, by the trackers of accelerate.

None of them is imported unless ``tracking`` names it. A search stage is a run of theirs; a trial that a
resumed study replays from its ledger is logged again. Trials end out of order, and trackers drop or misplace
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
from typing import TYPE_CHECKING, Any, Literal

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.evaluation.model_calls import PlanCalls

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from ecdiff_tune.evaluation.candidate import Candidate
    from ecdiff_tune.objective import Trial

NONE = "none"
PROJECT = "ecdiff"
State = Literal["finished", "failed", "stopped"]
"""How a run ended: with a winner, by an error, or because somebody wanted it."""
MLFLOW_STATES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
PARTIAL, WINNER = "partial/", "winner/"
"""Before the names of what was measured on a part of the prompts alone, and of the winner's values."""
TRACKERS = (NONE, "tensorboard", "wandb", "mlflow")
"""What ``tracking`` takes; each needs the package of its name."""


class TrackingError(ECDiffError):
    """Trials cannot be tracked as it was set."""


def check(tracking: str) -> None:
    """See that the tracker can be used, before anything is generated.

    Raises:
        TrackingError: it is unknown, or not installed.
    """
    if tracking not in TRACKERS:
        raise TrackingError.unknown("tracking", tracking, TRACKERS)
    if tracking != NONE and importlib.util.find_spec(tracking) is None:
        line = f"tracking={tracking} needs {tracking}: pip install {tracking}."
        raise TrackingError(line, key="tracking", got=tracking, expected=[tracking])


class TrackerRun:
    """One search stage in a tracker, if there is one."""

    def __init__(self, tracker: GeneralTracker | None = None) -> None:
        self._tracker, self._logged = tracker, 0
        self._winner: Trial | None = None

    def trial(self, trial: Trial) -> None:
        """Log a trial that has a score; of one that was pruned with what is partial named so."""
        if self._tracker is not None and trial.score is not None:
            self._logged += 1
            self._tracker.log(values_of(trial), step=self._logged)

    def winner(self, trial: Trial) -> None:
        """Log the stage's winner when the run ends."""
        self._winner = trial

    def end(self, state: State) -> None:
        """The stage is over. accelerate's trackers end every run as finished."""
        tracker = self._tracker
        if tracker is None:
            return
        if self._winner is not None:
            numbers = {WINNER + name: value for name, value in values_of(self._winner).items()}
            words = {WINNER + name: _word(one) for name, one in _config(self._winner.candidate).items()}
            words = {name: one for name, one in words.items() if name not in numbers}
            tracker.log(numbers, step=self._logged)
            # A metric of MLflow is a number.
            if tracker.name == "mlflow":
                tracker.store_init_configuration(words)
            else:
                tracker.log(words, step=self._logged)
        if tracker.name == "tensorboard":
            tracker.log({"state": state})
            tracker.finish()
        elif tracker.name == "wandb":
            tracker.tracker.finish(exit_code=0 if state == "finished" else 1)
        else:
            importlib.import_module("mlflow").end_run(status=MLFLOW_STATES[state])


def _begin(tracking: str, name: str, folder: Path, settings: Mapping[str, Any]) -> GeneralTracker:
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    PartialState(cpu=True)  # its trackers' logger wants one; models are placed without it
    classes: dict[str, Callable[[], GeneralTracker]] = {
        "tensorboard": lambda: TensorBoardTracker(name.rpartition("/")[2], folder / "tensorboard"),
        "wandb": lambda: WandBTracker(PROJECT, name=name, dir=str(folder)),
        "mlflow": lambda: MLflowTracker(PROJECT, run_name=name),
    }
    tracker = classes[tracking]()
    tracker.start()
    tracker.store_init_configuration({key: _word(value) for key, value in settings.items()})
    return tracker


def _word(value: Any) -> str | int | float:
    """A value as all trackers take it."""
    return value if isinstance(value, str | int | float) else json.dumps(value)


@contextmanager
def run(tracking: str, name: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[TrackerRun]:
    """A run from its begin to its end; one that an error or a person ends is not called finished.

    Args:
        tracking: one of ``TRACKERS``.
        name: of the run: pair, study and stage, divided by slashes.
        folder: of the study.
        settings: of the study, flat.
    """
    made = TrackerRun(None if tracking == NONE else _begin(tracking, name, folder, settings))
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
    ways = {name: getattr(candidate, name) for name in ("estimator", "handoff_adapter", "handoff")}
    return {**params, **{name: value for name, value in ways.items() if value is not None}}
