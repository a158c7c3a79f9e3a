"""Pipelines that ECDiffPipeline has no family for, or that call their model once a branch: Flux, Wan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SchedulerMixin,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from ecdiff_core import ECDiffPipeline, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.plan import Action

from ...hooking import (
    PLANS,
    PROMPT,
    STEPS,
    Pipe,
    assert_close,
    counted,
    run,
    seeded,
    with_plan,
    with_sampling,
)
from ...small_videos import TEXT_TOKENS

GUIDANCE = 3.0
EMBEDS = torch.randn(2, 1, 8, 16, generator=seeded(1))
POOLED = torch.randn(2, 1, 16, generator=seeded(2))
"""Of the prompt and the negative prompt, so that no text encoder is needed."""


def flux_transformer(layers: int) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def wan_transformer(layers: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=layers,
        rope_max_seq_len=32,
    ).eval()


def flux_pipeline(transformer: nn.Module) -> Pipe:
    """With shifted timesteps, as FLUX.1-dev comes."""
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FluxPipeline(scheduler=scheduler, transformer=transformer, **absent)


def wan_pipeline(transformer: nn.Module) -> Pipe:
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return WanPipeline(scheduler=scheduler, transformer=transformer, **absent)


def run_flux(pipe: Pipe, latents: Tensor, **settings: Any) -> Tensor:
    prompts = {
        "prompt_embeds": EMBEDS[0],
        "negative_prompt_embeds": EMBEDS[1],
        "pooled_prompt_embeds": POOLED[0],
        "negative_pooled_prompt_embeds": POOLED[1],
    }
    sizes = {"height": 64, "width": 64, "num_inference_steps": STEPS}
    given = {**prompts, **sizes, "true_cfg_scale": GUIDANCE, **settings}
    images: Tensor = pipe(latents=latents, output_type="latent", **given).images
    return images


def run_wan(pipe: Pipe, latents: Tensor, **settings: Any) -> Tensor:
    prompts = {"prompt_embeds": EMBEDS[0], "negative_prompt_embeds": EMBEDS[1]}
    sizes = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": STEPS}
    given = {**prompts, **sizes, "guidance_scale": GUIDANCE, **settings}
    frames: Tensor = pipe(latents=latents, output_type="latent", **given).frames
    return frames


def call_flux(model: nn.Module, branch: int, latents: Tensor, timestep: Tensor) -> Tensor:
    output: Tensor = model(
        hidden_states=latents,
        timestep=timestep.expand(1) / 1000,
        encoder_hidden_states=EMBEDS[branch],
        pooled_projections=POOLED[branch],
        txt_ids=torch.zeros(8, 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
        return_dict=False,
    )[0]
    return output


def call_wan(model: nn.Module, branch: int, latents: Tensor, timestep: Tensor) -> Tensor:
    output: Tensor = model(latents, timestep.expand(1), EMBEDS[branch], return_dict=False)[0]
    return output


def flux_timesteps(scheduler: SchedulerMixin) -> None:
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS), mu=calculate_shift(16))


@dataclass(frozen=True)
class Case:
    """A pipeline with two small models, and what one model call of it is."""

    transformer: Callable[[int], nn.Module]
    pipeline: Callable[[nn.Module], Pipe]
    shape: tuple[int, ...]
    run: Callable[..., Tensor]
    call: Callable[[nn.Module, int, Tensor, Tensor], Tensor]
    set_timesteps: Callable[[SchedulerMixin], None]
    first_layer: str

    @property
    def latents(self) -> Tensor:
        return torch.randn(self.shape, generator=seeded())


CASES = {
    "flux": Case(
        flux_transformer, flux_pipeline, (1, 16, 16), run_flux, call_flux, flux_timesteps, "x_embedder"
    ),
    "wan": Case(
        wan_transformer,
        wan_pipeline,
        (1, 4, 3, 4, 4),
        run_wan,
        call_wan,
        lambda scheduler: scheduler.set_timesteps(STEPS),
        "patch_embedding",
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def pipe(case: Case) -> Pipe:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = case.pipeline(case.transformer(2))
    own.set_progress_bar_config(disable=True)
    return own


@pytest.fixture
def edge(case: Case) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return case.transformer(1)


def with_scheduler_of(pipe: Pipe, config: TunedConfig) -> TunedConfig:
    return with_sampling(config, scheduler=type(pipe.scheduler).__name__)


@torch.no_grad()
def by_hand(case: Case, pipe: Pipe, edge: nn.Module, config: TunedConfig) -> Tensor:
    """The plan, with a noise history for each branch."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    case.set_timesteps(scheduler)
    models = {Action.CLOUD: pipe.transformer, Action.EDGE: edge}
    latents, histories = case.latents, [estimators.init()] * 2
    for action, timestep in zip(config.plan().steps, scheduler.timesteps, strict=True):
        for branch, state in enumerate(histories):
            if action is Action.APPROX:
                histories[branch] = estimators.estimate_gradient(state, config.params.alpha)
            else:
                output = case.call(models[action], branch, latents, timestep)
                histories[branch] = estimators.observe(state, output)
        with_prompt, without = (state.eps for state in histories)
        assert with_prompt is not None
        assert without is not None
        guided = without + GUIDANCE * (with_prompt - without)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return latents


def test_cloud_only_is_the_pipeline_itself(
    case: Case, pipe: Pipe, edge: nn.Module, tiny_config: TunedConfig
) -> None:
    expected = case.run(pipe, case.latents)
    apply_ecdiff(pipe, with_scheduler_of(pipe, with_plan(tiny_config, "cloud")), edge=edge)
    assert torch.equal(case.run(pipe, case.latents), expected)
    assert pipe.ecdiff.calls == {"cloud": 2 * STEPS, "edge": 0}
    remove_ecdiff(pipe)
    assert torch.equal(case.run(pipe, case.latents), expected)


@pytest.mark.parametrize("name", ["tuned", "exact", "hybrid", "edge"])
def test_a_plan_made_by_hand(
    name: str, case: Case, pipe: Pipe, edge: nn.Module, tiny_config: TunedConfig
) -> None:
    config = with_scheduler_of(pipe, with_plan(tiny_config, name))
    expected, plain = by_hand(case, pipe, edge, config), case.run(pipe, case.latents)
    apply_ecdiff(pipe, config, edge=edge)
    plan, first = config.plan(), case.first_layer
    with counted(cloud=getattr(pipe.transformer, first), edge=getattr(edge, first)) as calls:
        latents = case.run(pipe, case.latents)
    assert_close(latents, expected)
    assert (latents - plain).abs().max() > 1e-2
    assert pipe.ecdiff.calls == calls == {"cloud": 2 * plan.cloud_calls, "edge": 2 * plan.edge_calls}
    assert torch.equal(case.run(pipe, case.latents), latents)


def test_guidance_on_and_off_from_call_to_call(
    case: Case, pipe: Pipe, edge: nn.Module, tiny_config: TunedConfig
) -> None:
    apply_ecdiff(pipe, with_scheduler_of(pipe, tiny_config), edge=edge)
    guided = case.run(pipe, case.latents)
    setting = "true_cfg_scale" if case is CASES["flux"] else "guidance_scale"
    warned = (
        nullcontext()
        if setting == "true_cfg_scale"
        else pytest.warns(UserWarning, match="guidance_scale=1, the config was tuned with")
    )
    with warned:
        unguided = case.run(pipe, case.latents, **{setting: 1.0})
    assert not torch.equal(unguided, guided)
    assert pipe.ecdiff.calls == {"cloud": 5, "edge": 3}
    assert torch.equal(case.run(pipe, case.latents), guided)
    assert pipe.ecdiff.calls == {"cloud": 10, "edge": 6}


def test_half_precision(case: Case, pipe: Pipe, edge: nn.Module, tiny_config: TunedConfig) -> None:
    """Flux hands over timestep / 1000 in bfloat16."""
    apply_ecdiff(pipe, with_scheduler_of(pipe, tiny_config), edge=edge.to(torch.bfloat16))
    pipe.to(torch.bfloat16)
    embeds = {
        name: value.bfloat16()
        for name, value in (
            ("prompt_embeds", EMBEDS[0]),
            ("negative_prompt_embeds", EMBEDS[1]),
            ("pooled_prompt_embeds", POOLED[0]),
            ("negative_pooled_prompt_embeds", POOLED[1]),
        )
        if case is CASES["flux"] or "pooled" not in name
    }
    assert case.run(pipe, case.latents.to(torch.bfloat16), **embeds).isfinite().all()
    assert pipe.ecdiff.summary().startswith(str(tiny_config.plan()))


@pytest.mark.parametrize("name", ["tuned", "cloud"])
def test_cogvideox(name: str, video_config: TunedConfig, tiny_videos: Path) -> None:
    """Two videos and negative prompts, in one batch of four."""
    pipe = CogVideoXPipeline.from_pretrained(tiny_videos / "cloud")
    pipe.set_progress_bar_config(disable=True)
    edge = CogVideoXPipeline.from_pretrained(tiny_videos / "edge")
    steps = {"num_inference_steps": STEPS}
    config = with_sampling(with_plan(video_config, name), **steps)
    prompts, negatives = [PROMPT, "a blue star"], ["dark", ""]
    sizes = {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": TEXT_TOKENS}
    given = {**steps, **sizes, "negative_prompt": negatives}
    ours = ECDiffPipeline.from_config(config, device="cpu")
    expected = ours(prompts, negative_prompt=negatives, generator=seeded())
    plain = run(pipe, prompts, **given)
    apply_ecdiff(pipe, config, edge=edge)
    latents = run(pipe, prompts, **given)
    assert_close(latents, expected.latents)
    assert torch.equal(latents, plain) is (name == "cloud")
    assert pipe.ecdiff.plan.schedule == ("3C2A1C2A1C3E" if name == "tuned" else f"{PLANS['cloud'][3]}C")
