"""The scheduler's settings: kept in the config, compared by the hook and by ECDiffPipeline, named."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig, apply_ecdiff
from ecdiff_core.errors import ConfigError, ParamsError
from ecdiff_core.sampling.scheduler_settings import check_settings, differences, settings_of

from ...hooking import STEPS, load, run, with_sampling
from ...refusals import refused


def test_every_setting_that_something_reads() -> None:
    found = settings_of(DDIMScheduler(clip_sample=False, prediction_type="v_prediction"))
    assert found == {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "v_prediction",
        "thresholding": False,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    }
    assert settings_of(DDIMScheduler(clip_sample=True))["clip_sample_range"] == 1.0


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        (DDIMScheduler(), DDIMScheduler(timestep_spacing="trailing"), {"timestep_spacing"}),
        (DDIMScheduler(), DDIMScheduler(trained_betas=[0.1, 0.2]), {"trained_betas"}),
        (
            DDIMScheduler(trained_betas=[0.001] * 50),
            DDIMScheduler(trained_betas=[0.001] * 49 + [0.002]),
            {"trained_betas"},
        ),
        (EulerDiscreteScheduler(), EulerDiscreteScheduler(use_karras_sigmas=True), {"use_karras_sigmas"}),
        (
            DPMSolverMultistepScheduler(),
            DPMSolverMultistepScheduler(solver_order=3, final_sigmas_type="sigma_min"),
            {"solver_order", "final_sigmas_type"},
        ),
        (DDIMScheduler(clip_sample=False), DDIMScheduler(clip_sample=False, clip_sample_range=2.0), set()),
        (DDIMScheduler(clip_sample=False), DDIMScheduler(clip_sample=None), set()),
    ],
)
def test_differences_are_named(one: Any, other: Any, named: set[str]) -> None:
    assert differences(one, settings_of(one)) == {}
    found = differences(other, settings_of(one))
    assert set(found) == named
    for name, (now, then) in found.items():
        assert (now, then) == (settings_of(other)[name], settings_of(one)[name])


def test_a_shift_that_its_config_does_not_tell() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    tuned = settings_of(scheduler)
    scheduler.set_shift(5.0)
    assert scheduler.config.shift == 3.0
    assert differences(scheduler, tuned) == {"shift": (5.0, 3.0)}


def test_settings_by_hand_are_compared_as_far_as_they_go() -> None:
    check_settings(DDIMScheduler(timestep_spacing="trailing"), None)
    check_settings(DDIMScheduler(timestep_spacing="trailing"), {"timestep_spacing": "trailing"})
    with refused(ParamsError, key="scheduler_config", got={"timestep_spacing": "leading"}):
        check_settings(DDIMScheduler(), {"timestep_spacing": "trailing"})
    with refused(ParamsError, key="scheduler_config", got="use_karras_sigmas"):
        check_settings(DDIMScheduler(), {"use_karras_sigmas": True})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("DDIMScheduler", {"timestep_spacing": "trailing"}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ],
)
def test_the_hook_refuses_what_was_not_tuned(
    name: str, changes: dict[str, Any], tiny_config: TunedConfig, tiny_pair: Path
) -> None:
    """With version 2. A config that says nothing of them compares the class alone, as version 1 does."""
    config = with_sampling(tiny_config, scheduler=name)
    config = replace(config, params=ECDiffParams.cloud_only(STEPS))
    pipe = load(tiny_pair / "cloud", name)
    tuned = replace(config, scheduler_config=settings_of(pipe.scheduler))
    assert TunedConfig.from_yaml(tuned.to_yaml()) == tuned
    apply_ecdiff(pipe, tuned)
    expected = run(pipe)
    own, pipe.scheduler = pipe.scheduler, type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)
    (key, value), *_ = changes.items()
    advice = re.compile(rf"from_config\(pipe\.scheduler\.config, {key}=")
    with refused(ParamsError, key="scheduler_config", got={key: value}, advice=advice):
        run(pipe)
    with refused(ParamsError, key="scheduler_config", got={key: value}, advice=advice):
        apply_ecdiff(pipe, tuned)
    apply_ecdiff(pipe, config)
    assert (run(pipe) - expected).norm() > 0.05 * expected.norm()
    apply_ecdiff(pipe, tuned, check_scheduler=False)
    assert run(pipe).isfinite().all()
    pipe.scheduler = own


def test_timesteps_of_the_call_s_own(tiny_config: TunedConfig, tiny_pair: Path) -> None:
    config = with_sampling(tiny_config, scheduler="EulerDiscreteScheduler")
    config = replace(config, params=ECDiffParams.cloud_only(STEPS))
    pipe: StableDiffusionPipeline = load(tiny_pair / "cloud", "EulerDiscreteScheduler")
    other = list(range(990, 990 - 80 * STEPS, -80))
    apply_ecdiff(pipe, config)
    expected = run(pipe)
    with refused(ParamsError, key="timesteps", got=other):
        run(pipe, num_inference_steps=None, timesteps=other)
    assert torch.equal(run(pipe), expected)
    apply_ecdiff(pipe, config, check_scheduler=False)
    assert not torch.equal(run(pipe, num_inference_steps=None, timesteps=other), expected)


@pytest.mark.parametrize("dynamic", [False, True])
def test_sigmas_of_the_call_s_own(dynamic: bool, sd3_pair_without_t5: Path) -> None:
    """Flow matching has no timesteps but by its sigmas, and shifts them by the size."""
    pipe = StableDiffusion3Pipeline.from_pretrained(
        sd3_pair_without_t5 / "cloud", text_encoder_3=None, tokenizer_3=None
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=dynamic)
    sampling = Sampling(8, "FlowMatchEulerDiscreteScheduler", 3.0)
    pair = PairSpec("sd3", ModelRef("cloud"), ModelRef("edge"))
    apply_ecdiff(pipe, TunedConfig(pair, ECDiffParams.cloud_only(8), sampling))
    given = {"guidance_scale": 3.0, "output_type": "latent", "height": 48, "width": 32}
    pipe("a cat", num_inference_steps=8, **given)
    assert pipe.ecdiff.calls == {"cloud": 8, "edge": 0}
    with refused(ParamsError, key="timesteps"):
        pipe("a cat", sigmas=np.linspace(1, 1 / 8, 8) ** 2, **given)


def test_inference_refuses_a_model_whose_scheduler_is_another(
    tiny_config: TunedConfig, tiny_pair: Path, tmp_path: Path
) -> None:
    pipe = ECDiffPipeline.from_config(tiny_config, device="cpu")
    tuned = replace(tiny_config, scheduler_config=pipe.scheduler_config)
    assert ECDiffPipeline.from_config(tuned, device="cpu").scheduler_config == pipe.scheduler_config
    shutil.copytree(tiny_pair, tmp_path / "pair")
    path = tmp_path / "pair" / "cloud" / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "timestep_spacing": "trailing"}), encoding="utf-8")
    cloud = replace(tuned.pair.cloud, id=str(tmp_path / "pair" / "cloud"))
    moved = replace(tuned, pair=replace(tuned.pair, cloud=cloud))
    with refused(ParamsError, key="scheduler_config", got={"timestep_spacing": "trailing"}):
        ECDiffPipeline.from_config(moved, device="cpu")
    ECDiffPipeline.from_config(replace(moved, scheduler_config=None), device="cpu")


def test_settings_have_names(tiny_config: TunedConfig) -> None:
    with refused(ConfigError, key="scheduler_config", got=[1]):
        replace(tiny_config, scheduler_config={1: "leading"})  # type: ignore[dict-item]


@pytest.mark.parametrize(("key", "nearest"), [("clip_sampel", "clip_sample"), ("foo", "")])
def test_a_setting_that_the_scheduler_does_not_have(
    key: str, nearest: str, tiny_config: TunedConfig, tiny_pair: Path
) -> None:
    """By hand, or of another class; switched off, and no slip of the pen, it changes nothing."""
    scheduler = load(tiny_pair / "cloud").scheduler
    about = {"key": "scheduler_config", "got": key, "nearest": nearest}
    with refused(ParamsError, **about):
        check_settings(scheduler, {key: 3})
    pipe = load(tiny_pair / "cloud")
    cloud_only = replace(tiny_config, params=ECDiffParams.cloud_only(STEPS), scheduler_config={key: 3})
    with refused(ParamsError, **about):
        apply_ecdiff(pipe, cloud_only)
    for off in (None, False):
        with refused(ParamsError, **about) if nearest else nullcontext():
            check_settings(scheduler, {key: off})


def test_zero_is_a_value_of_its_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift_terminal=None)
    assert differences(scheduler, {"shift_terminal": 0.0}) == {"shift_terminal": (None, 0.0)}
    assert differences(DDIMScheduler(), {"thresholding": None, "steps_offset": 0}) == {}
    assert differences(DDIMScheduler(), {"steps_offset": None}) == {"steps_offset": (0, None)}
