"""What a hook refuses, and when."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    SD3Transformer2DModel,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from ecdiff_core import TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.hook import checks
from ecdiff_core.sampling.schedulers import build_scheduler

from ...hooking import (
    STEPS,
    Pipe,
    counted,
    denoise,
    run,
    with_plan,
    with_sampling,
)
from ...refusals import refused

PRK = {"skip_prk_steps": False}
"""PNDM with its Runge-Kutta start, four calls a step."""

both = pytest.mark.parametrize("kind", ["sd", "sdxl"], indirect=True)


@both
def test_another_number_of_steps(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    advice = re.compile("num_inference_steps=12, .* p=6, k=2, s=18, num_inference_steps=24")
    with refused(ParamsError, key="num_inference_steps", got=24, advice=advice):
        run(pipe, num_inference_steps=24)
    assert torch.equal(run(pipe), expected)


@pytest.mark.parametrize(("name", "changes"), [("HeunDiscreteScheduler", {}), ("PNDMScheduler", PRK)])
def test_schedulers_that_call_the_model_more_often(
    name: str, changes: dict[str, bool], config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    scheduler = build_scheduler(name, pipe.scheduler)
    pipe.scheduler = scheduler.from_config(scheduler.config, **changes)
    apply_ecdiff(pipe, with_sampling(config, scheduler=name), edge=edge)
    with refused(ParamsError, key="scheduler", got=name, expected="one model call a step"):
        run(pipe)


def test_another_scheduler(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    pipe.scheduler = build_scheduler("EulerDiscreteScheduler", pipe.scheduler)
    with refused(ParamsError, key="scheduler", got="EulerDiscreteScheduler", expected="DDIMScheduler"):
        run(pipe)
    with refused(ParamsError, key="scheduler", got="EulerDiscreteScheduler", expected="DDIMScheduler"):
        apply_ecdiff(pipe, config, edge=edge)
    apply_ecdiff(pipe, config, edge=edge, check_scheduler=False)
    assert run(pipe).isfinite().all()
    drawing = with_sampling(config, scheduler="DDPMScheduler")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with refused(ParamsError, key="scheduler", got="DDPMScheduler", expected="deterministic"):
        apply_ecdiff(pipe, drawing, edge=edge)


@both
def test_guidance_cut_off(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """While estimates are still to come it is refused; from the edge's steps on it works."""

    def cut(at: int) -> Any:
        def callback(own: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == at:
                own._guidance_scale = 0.0
                return {name: given[name].chunk(2)[-1] for name in names}
            return {}

        return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}

    known = ("prompt_embeds", "add_text_embeds", "add_time_ids")
    names = [name for name in known if name in pipe._callback_tensor_inputs]
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    with refused(ParamsError, key="batch", got={"batch": 1, "step": 5}):
        run(pipe, **cut(4))
    assert run(pipe, **cut(9)).isfinite().all()
    assert torch.equal(run(pipe), expected)


def test_what_a_loop_of_one_s_own_was_refused_is_refused_again(
    config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    """With the same timesteps: a refused call has begun no generation."""
    apply_ecdiff(pipe, with_sampling(config, height=32, width=32), edge=edge)
    pipe.scheduler.set_timesteps(STEPS)
    first, text = pipe.scheduler.timesteps[0], torch.randn(2, 24, 32)
    with torch.no_grad():
        for _ in range(2):
            with refused(ParamsError, key="height", got={"height": 48}, expected="height=32"):
                pipe.unet(torch.ones(2, 4, 12, 8), first, text)
        pipe.unet(torch.ones(2, 4, 8, 8), first, text)
    assert pipe.ecdiff.calls == {"cloud": 1, "edge": 0}


def test_a_scheduler_is_tried_out_once(
    config: TunedConfig, pipe: Pipe, edge: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(checks, "refuse_stochastic", tried.append)
    apply_ecdiff(pipe, with_plan(config, "edge"), edge=edge)
    for _ in range(2):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        run(pipe)
    assert len(tried) == 1
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, steps_offset=2)
    run(pipe)
    assert tried[1:] == [pipe.scheduler]


def test_not_from_the_first_timestep(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    pipe.scheduler.set_timesteps(STEPS)
    with refused(ParamsError, key="step", got=4, expected="0"):
        pipe.unet(torch.ones(1, 4, 8, 8), pipe.scheduler.timesteps[4], torch.ones(1, 24, 32))
    with refused(ParamsError, key="timestep", got=3.5, expected="one of pipe.scheduler.timesteps"):
        pipe.unet(torch.ones(1, 4, 8, 8), 3.5, torch.ones(1, 24, 32))


def test_pairs_that_cannot_be_used(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    three = UNet2DConditionModel(
        sample_size=8, in_channels=3, block_out_channels=(8, 8), norm_num_groups=8, attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    narrow = UNet2DConditionModel.from_config(edge.unet.config, cross_attention_dim=48)
    pooled = UNet2DConditionModel.from_config(
        edge.unet.config,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    other = SD3Transformer2DModel(sample_size=8, num_layers=1, num_attention_heads=2, attention_head_dim=4)
    for given, key, got, expected in (
        (None, "edge", None, "an edge model"),
        (pipe, "edge", "cloud", ""),
        (pipe.unet, "edge", "cloud", ""),
        ("edge", "pipe", "edge", "a diffusers pipeline or its denoiser"),
        (pipe.scheduler, "pipe", "DDIMScheduler", ["unet", "transformer"]),
        (three, "edge.in_channels", 3, "4"),
        (narrow, "edge.cross_attention_dim", 48, "32"),
        (pooled, "edge.addition_embed_type", "text_time", "None"),
        (other, "edge", "SD3Transformer2DModel", "UNet2DConditionModel"),
    ):
        with refused(PairError, key=key, got=got, expected=expected):
            apply_ecdiff(pipe, config, edge=given)
    apply_ecdiff(edge, with_plan(config, "cloud"), check_weights=False)
    with refused(PairError, key="edge", got="hooked"):
        apply_ecdiff(pipe, config, edge=edge)
    remove_ecdiff(edge)
    with refused(ConfigError, key="edge", got="UNet2DConditionModel", expected="a diffusers pipeline"):
        apply_ecdiff(pipe, with_sampling(config, handoff_adapter="matched"), edge=edge.unet)
    with refused(PairError, key="pipe", got="Linear", expected="timestep"):
        apply_ecdiff(SimpleNamespace(unet=torch.nn.Linear(1, 1)), config, edge=edge)
    with refused(PairError, key="transformer_2", expected="none"):
        apply_ecdiff(SimpleNamespace(transformer=pipe.unet, transformer_2=pipe.unet), config, edge=edge)
    assert not hasattr(pipe, "ecdiff")


def test_calls_that_make_no_sense(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    with refused(PairError, key="pipe", got="UNet2DConditionModel", expected="a diffusers pipeline"):
        apply_ecdiff(pipe.unet, config, edge=edge)
    for given in (None, {"params": {}}):
        with refused(ConfigError, key="config", got=given):
            apply_ecdiff(pipe, given, edge=edge)
    assert not hasattr(pipe, "ecdiff")


def test_residuals_that_fit_the_cloud_s_blocks_alone(config: TunedConfig, pipe: Pipe) -> None:
    """Told at the first step, not where the edge's turn comes."""
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96))
    parts = {**pipe.components, "controlnet": controlnet, "safety_checker": None, "feature_extractor": None}
    own = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    given = {"image": torch.zeros(1, 3, 32, 32), "height": 32, "width": 32}
    deeper = UNet2DConditionModel.from_config(pipe.unet.config, layers_per_block=2).eval()
    apply_ecdiff(own, config, edge=deeper)
    with (
        counted(cloud=pipe.unet.conv_in) as calls,
        refused(PairError, key="edge.layers_per_block", got=2, expected="1"),
    ):
        run(own, **given)
    assert calls == {"cloud": 0}
    alike = UNet2DConditionModel.from_config(pipe.unet.config).eval()
    apply_ecdiff(own, config, edge=alike)
    assert run(own, **given).isfinite().all()
    remove_ecdiff(own)


@pytest.mark.parametrize("kind", ["sdxl"], indirect=True)
def test_a_generation_that_another_model_ends(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    with refused(ParamsError, key="denoising_end", got=0.5):
        run(pipe, denoising_end=0.5)
    assert torch.equal(run(pipe), expected)


def test_another_guidance_scale_is_told_once(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """The config has 3; without guidance there is none, whatever the number."""
    apply_ecdiff(pipe, config, edge=edge)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(pipe)
        for scale in (7.0, 1.0):
            with pytest.raises(UserWarning, match=f"guidance_scale={scale:g}, the config was tuned with 3: "):
                run(pipe, guidance_scale=scale)
            run(pipe, guidance_scale=scale)
        denoise(pipe, 2)  # a loop of one's own, which has none to tell
        apply_ecdiff(pipe, with_sampling(config, guidance_scale=1.0), edge=edge)
        run(pipe, guidance_scale=0.0)
