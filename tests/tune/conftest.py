"""What the tuner's tests share: a loaded tiny pair, its reference, whole studies, and the command line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

import ecdiff_tune.__main__
from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import run_command
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.__main__ import main
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import reference_runs
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.study import process_setup

from ..loading import load_or_copy
from .composing import compose_once
from .studies import Command, Outcome, Study, show_nothing


@pytest.fixture(scope="session", autouse=True)
def composed_and_loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        compose_once(patch)
        patch.setattr(process_setup, "load_pair", load_or_copy)
        yield


@pytest.fixture(scope="session")
def pipe(tiny_config: TunedConfig) -> ECDiffPipeline:
    """The tiny pair, 12 steps; its tuned plan is ``3C2A1C2A1C3E``."""
    return ECDiffPipeline.from_config(tiny_config, device="cpu")


@pytest.fixture(scope="session")
def prompts() -> CalibrationSet:
    """Three prompts: with a batch size of two, a whole batch and a rest."""
    return CalibrationSet(("a red circle", "two blue stars", "a small green ring"), (5, 6, 7))


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``made`` lies."""
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="session")
def made(pipe: ECDiffPipeline, prompts: CalibrationSet, reference_folder: Path) -> Reference:
    """The reference of ``prompts``."""
    return reference_runs.make(pipe, prompts, reference_folder, batches=Batches(2), on_prompts=lambda _: None)


@pytest.fixture(scope="session")
def latency() -> LatencyProfile:
    """A profile with round numbers, the edge at 0.4 of the cloud."""
    return LatencyProfile(
        cloud_call=Timing(0.020, 0.019, 0.022),
        edge_call=Timing(0.008, 0.0076, 0.0085),
        encode=Timing(0.003, 0.002, 0.004),
        decode=Timing(0.005, 0.004, 0.006),
        transfer_seconds=0.010,
    )


@dataclass
class Calls:
    """Model calls since ``reset``."""

    cloud: int = 0
    edge: int = 0

    def reset(self) -> None:
        self.cloud = self.edge = 0

    @property
    def both(self) -> tuple[int, int]:
        return self.cloud, self.edge


@pytest.fixture
def calls(pipe: ECDiffPipeline) -> Iterator[Calls]:
    """Counts the real calls of both models of ``pipe``."""
    counted = Calls()

    def count(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda *_: setattr(counted, name, getattr(counted, name) + 1)

    hooks = [
        pipe.pair.cloud.register_forward_hook(count("cloud")),
        pipe.pair.edge.register_forward_hook(count("edge")),
    ]
    yield counted
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="session")
def command() -> Command:
    """``ecdiff-tune ARGUMENTS…`` in this process, which saves the seconds that importing torch takes."""

    def call(*arguments: str) -> Outcome:
        assert not any("hydra.mode" in one for one in arguments)
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        errors: list[ECDiffError] = []

        def run_noting_errors(work: Callable[[], None], when_stopped: str = "") -> int:
            def noting() -> None:
                try:
                    work()
                except ECDiffError as error:
                    errors.append(error)
                    raise

            return run_command(noting, when_stopped)

        before = os.environ.get("HYDRA_FULL_ERROR")
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                mock.patch.object(ecdiff_tune.__main__, "run_command", run_noting_errors),
            ):
                status = main(arguments)
        except SystemExit as stop:  # Hydra's own --help
            status = int(stop.code or 0)
        finally:
            sys.argv = argv
            if before is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
        return Outcome(status, out.getvalue(), err.getvalue(), *errors)

    torch.set_num_threads(1)
    return call


@pytest.fixture
def unshown(monkeypatch: pytest.MonkeyPatch) -> None:
    """``show_nothing`` for a test."""
    show_nothing(monkeypatch)


@pytest.fixture
def study(tiny_pair: Path, tmp_path: Path, command: Command, latency: LatencyProfile) -> Study:
    """Nothing but a latency profile."""
    return Study(tmp_path / "outputs", tiny_pair, command).with_latency(latency)


@pytest.fixture(scope="session")
def tuned(
    tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory, command: Command, latency: LatencyProfile
) -> tuple[Study, Outcome]:
    """An undisturbed ``tune``, not to be written to, and what it printed."""
    whole = Study(tmp_path_factory.mktemp("tuned"), tiny_pair, command).with_latency(latency)
    return whole, whole("tune", "search=greedy")


@pytest.fixture
def done(tuned: tuple[Study, Outcome]) -> Study:
    """The undisturbed study."""
    return tuned[0]
