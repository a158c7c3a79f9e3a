"""Tuning that was killed and goes on finds what an undisturbed one finds, whatever the method."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ecdiff_core import ECDiffParams, ECDiffPipeline, TunedConfig
from ecdiff_core.methods import get_method
from ecdiff_core.models.memory import Batches
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.methods.calibrate import ratios
from ecdiff_tune.methods.measure import MethodMeasurer, Runs
from ecdiff_tune.methods.seen import DialResult, Floor
from ecdiff_tune.methods.tuning import Tuned, tune

STEPS = 4
PROMPTS = CalibrationSet(("a red ring", "a blue cross"), (0, 1))
CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "first_block_cache": ("video", {}, 0.96),
    "mag_cache": ("video", {}, 0.96),
    "dbcache": ("video", {"max_warmup_steps": 1, "calibrator": "none"}, 0.95),
    "taylorseer": ("unet", {"max_order": 0, "disable_cache_before_step": 1}, 0.98),
    "deepcache": ("unet", {}, 0.97),
    "tome": ("unet", {"max_downsample": 4}, 0.98),
}
"""One of every kind of decision: by a threshold, measured ratios, cache-dit, counting, the step, and none."""


class Stopped(ECDiffPipeline):
    """A pipeline that a signal reaches in the middle of its ``left``-th generation from now."""

    left = -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            kwargs["on_step"] = interrupt
        return super().__call__(*args, **kwargs)


def interrupt(step: int, *_: Any) -> None:
    if step == STEPS // 2:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def pipes(tiny_config: TunedConfig, video_config: TunedConfig) -> dict[str, Stopped]:
    found = {}
    for kind, config in (("unet", tiny_config), ("video", video_config)):
        sampling = replace(config.sampling, num_inference_steps=STEPS)
        config = replace(config, params=ECDiffParams.cloud_only(STEPS), sampling=sampling)
        found[kind] = Stopped(ECDiffPipeline.from_config(config, device="cpu").pair, config)
    return found


@pytest.fixture(scope="module")
def references(pipes: dict[str, Stopped]) -> dict[str, Any]:
    """The cloud's own images."""
    found = {}
    for kind, pipe in pipes.items():
        generators = [torch.Generator().manual_seed(seed) for seed in PROMPTS.seeds]
        images = pipe(list(PROMPTS.prompts), generator=generators, output_type="pt").images
        found[kind] = SimpleNamespace(
            prompt_set=PROMPTS, prompts=[SimpleNamespace(cloud=one) for one in images]
        )
    return found


def tuned(folder: Path, pipe: Stopped, reference: Any, name: str) -> tuple[Tuned, list[str]]:
    """Tune with what lies in a folder; what was found, and what was said."""
    method, calls, lines = get_method(name), Counter[str](), list[str]()

    def floor(_: DialResult | None) -> Floor:
        return Floor(CASES[name][2], 0.5)

    with closing(Ledger(folder / "ledger.sqlite")) as ledger:
        fixed = {**ratios(method, pipe, PROMPTS, folder / "ratios.json", calls), **CASES[name][1]}
        runs, batches = Runs(folder / "runs.jsonl"), Batches(2)
        measurer = MethodMeasurer(pipe, reference, ledger, runs, batches, calls)
        found = tune(method, fixed, measurer, len(PROMPTS), floor, lines.append)
    return found, lines


PACKAGES = {"deepcache": "DeepCache", "tome": "tomesd", "dbcache": "cache_dit"}


@pytest.mark.parametrize("name", CASES)
def test_killed_is_undisturbed(
    name: str, pipes: dict[str, Stopped], references: dict[str, Any], tmp_path: Path
) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"needs {PACKAGES[name]}")
    kind = CASES[name][0]
    pipe, reference = pipes[kind], references[kind]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, lines = tuned(tmp_path / "whole", pipe, reference, name)
    generations = len((tmp_path / "whole" / "runs.jsonl").read_text().splitlines())
    assert whole.winner is not None
    killed = tmp_path / "killed"
    ratios(get_method(name), pipe, PROMPTS, killed / "ratios.json", Counter())
    pipe.left = 1 + generations // 2
    with pytest.raises(KeyboardInterrupt):
        tuned(killed, pipe, reference, name)
    again, said = tuned(killed, pipe, reference, name)
    assert said == lines
    assert again.table().equals(whole.table())
    assert again.winner == whole.winner
    assert len((killed / "runs.jsonl").read_text().splitlines()) == generations  # nothing is paid for twice
