"""The edge model inside the cloud's pipeline: its arguments, and the matched handoff."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXPipeline,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from ecdiff_core import ECDiffParams, ECDiffPipeline, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.hook.edge import EdgeModel, arguments_for, schedule_of
from ecdiff_core.hook.fit import check_edge

from ...hooking import Pipe, assert_close, denoise, load, run, seeded, with_plan, with_sampling
from ...refusals import refused
from ...small_videos import TEXT_TOKENS

PROMPT = "a red circle moves left"


def video(pipe: Pipe, **settings: Any) -> Tensor:
    sizes = {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": TEXT_TOKENS}
    return run(pipe, PROMPT, num_inference_steps=9, **sizes, **settings)


@pytest.fixture(scope="module")
def videos(tiny_videos: Path) -> tuple[Pipe, Pipe]:
    cloud, edge = (CogVideoXPipeline.from_pretrained(tiny_videos / side) for side in ("cloud", "edge"))
    cloud.set_progress_bar_config(disable=True)
    return cloud, edge


@pytest.fixture
def pipe(videos: tuple[Pipe, Pipe]) -> Iterator[Pipe]:
    yield videos[0]
    remove_ecdiff(videos[0])


@pytest.fixture
def edge(videos: tuple[Pipe, Pipe]) -> Pipe:
    return videos[1]


def test_matched_equals_our_own_pipeline(video_config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    found = {}
    for adapter in ("identity", "matched"):
        config = with_sampling(video_config, handoff_adapter=adapter)
        expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded())
        apply_ecdiff(pipe, config, edge=edge)
        found[adapter] = video(pipe)
        assert_close(found[adapter], expected.latents)
        assert pipe.ecdiff.summary() == f"{expected.plan} (4 cloud calls, 3 edge calls)"
    assert (found["identity"] - found["matched"]).abs().max() > 1e-2


@pytest.mark.parametrize("estimator", ["gradient", "edge"])
def test_guidance_that_varies_equals_our_own_pipeline(
    estimator: str, video_config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    config = with_sampling(video_config, use_dynamic_cfg=True, estimator=estimator)
    expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded())
    apply_ecdiff(pipe, config, edge=edge)
    found = video(pipe, use_dynamic_cfg=True)
    assert_close(found, expected.latents)
    assert torch.equal(video(pipe, use_dynamic_cfg=True), found)
    with refused(ParamsError, key="use_dynamic_cfg", got=False):
        video(pipe)
    with refused(ParamsError, key="guidance_scale", got=1.0):
        video(pipe, use_dynamic_cfg=True, guidance_scale=1.0)
    pipe.scheduler.set_timesteps(9)  # a loop of one's own
    text = torch.zeros(1, TEXT_TOKENS, pipe.transformer.config.text_embed_dim)
    with (
        torch.no_grad(),
        refused(ParamsError, key="batch", got=1, expected="both branches of guidance"),
    ):
        pipe.transformer(torch.zeros(1, 3, 4, 4, 4), text, pipe.scheduler.timesteps[:1])


def test_matched_tells_the_edge_its_own_timesteps(video_config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    seen: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, named: dict[str, Tensor]) -> None:
        seen.append(named["timestep"])

    handle = edge.transformer.register_forward_pre_hook(record, with_kwargs=True)
    apply_ecdiff(pipe, with_sampling(video_config, handoff_adapter="matched"), edge=edge)
    video(pipe)
    handle.remove()
    ours, theirs = schedule_of(pipe), schedule_of(edge)
    assert ours is not None
    assert theirs is not None
    for there, here in zip(pipe.scheduler.timesteps[-3:], seen, strict=True):
        expected = theirs.timestep_like(ours, float(there))
        assert here.tolist() == pytest.approx([expected, expected])  # an item of the batch each
        assert here.dtype is torch.float32
    assert not float(seen[0][0]).is_integer()


@torch.no_grad()
def test_matched_half_precision_keeps_its_dtype(video_config: TunedConfig, tiny_videos: Path) -> None:
    cloud, edge = (
        CogVideoXPipeline.from_pretrained(tiny_videos / side, dtype=torch.bfloat16)
        for side in ("cloud", "edge")
    )
    config = with_sampling(video_config, handoff_adapter="matched")
    call = EdgeModel(cloud, edge, "matched")
    text = torch.randn(1, TEXT_TOKENS, 16, generator=seeded()).bfloat16()
    latents = torch.randn(1, 3, 4, 4, 4, generator=seeded()).bfloat16()
    answer = call(latents, text, timestep=torch.tensor([239]), return_dict=False)
    assert type(answer) is tuple
    assert answer[0].dtype is torch.bfloat16
    cloud.set_progress_bar_config(disable=True)
    apply_ecdiff(cloud, config, edge=edge)
    assert video(cloud).isfinite().all()


@torch.no_grad()
def test_matched_before_guidance_is_matched_after_it(tiny_config: TunedConfig, tiny_pair: Path) -> None:
    """A pipeline that calls the model for each branch, and an edge with other noise and other scaling."""
    cloud, edge = (load(tiny_pair / side) for side in ("cloud", "edge"))
    edge.scheduler = DDIMScheduler.from_config(edge.scheduler.config, beta_end=0.03)
    edge.vae.register_to_config(scaling_factor=0.5)
    found = {}
    for adapter in ("identity", "matched"):
        apply_ecdiff(cloud, with_sampling(tiny_config, handoff_adapter=adapter), edge=edge)
        together, apart = denoise(cloud, 1), denoise(cloud, 2)
        assert_close(apart, together, 1e-5 * together.abs().max().item())
        found[adapter] = together
    assert (found["identity"] - found["matched"]).abs().max() > 1e-2
    # The cloud's noise schedule is that of the generation, not that of apply_ecdiff.
    cloud.scheduler = DDIMScheduler.from_config(cloud.scheduler.config, beta_end=0.03)
    cloud.vae.register_to_config(scaling_factor=0.5)
    matched = denoise(cloud, 1)
    apply_ecdiff(cloud, tiny_config, edge=edge)
    assert_close(matched, denoise(cloud, 1), 1e-5 * matched.abs().max().item())


def test_matched_needs_two_noise_schedules(video_config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    matched = with_sampling(video_config, handoff_adapter="matched")
    with refused(ConfigError, key="edge", got="CogVideoXTransformer3DModel", expected="a diffusers pipeline"):
        apply_ecdiff(pipe, matched, edge=edge.transformer)
    for part in ("vae", "scheduler"):
        parts = {"transformer": edge.transformer, "vae": edge.vae, "scheduler": edge.scheduler, part: None}
        with refused(PairError, key="handoff_adapter", got="SimpleNamespace", expected=["scheduler", "vae"]):
            apply_ecdiff(pipe, matched, edge=SimpleNamespace(**parts))
    for flow in (
        FlowMatchEulerDiscreteScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ):
        holder = SimpleNamespace(transformer=edge.transformer, vae=edge.vae, scheduler=flow)
        with refused(ParamsError, key="handoff_adapter", got="matched", expected="identity"):
            apply_ecdiff(pipe, matched, edge=holder)
    assert not hasattr(pipe, "ecdiff")
    apply_ecdiff(pipe, replace(matched, params=ECDiffParams.cloud_only(9)))
    assert pipe.ecdiff.plan.edge_calls == 0


@pytest.mark.parametrize("changes", [{"prediction_type": "v_prediction"}, {"num_train_timesteps": 500}])
def test_identity_needs_an_edge_that_answers_in_the_cloud_s_terms(
    changes: dict[str, object], tiny_config: TunedConfig, tiny_pair: Path
) -> None:
    cloud, edge = (load(tiny_pair / side) for side in ("cloud", "edge"))
    edge.scheduler = DDIMScheduler.from_config(edge.scheduler.config, **changes)
    with refused(ParamsError, key="handoff_adapter", expected="matched"):
        apply_ecdiff(cloud, tiny_config, edge=edge)
    assert not hasattr(cloud, "ecdiff")
    apply_ecdiff(cloud, with_sampling(tiny_config, handoff_adapter="matched"), edge=edge)
    assert run(cloud).isfinite().all()


def test_matched_refuses_inputs_that_hold_more_than_latents(pipe: Pipe, edge: Pipe) -> None:
    """Image to video and inpainting hand over an image's latents too."""
    for own in (pipe, edge):
        own.transformer.register_to_config(in_channels=8)
    try:
        with refused(
            PairError, key="handoff_adapter", got={"in_channels": 8, "out_channels": 4}, expected="identity"
        ):
            EdgeModel(pipe, edge, "matched")
        EdgeModel(pipe, edge, "identity")
    finally:
        for own in (pipe, edge):
            own.transformer.register_to_config(in_channels=4)


@pytest.mark.parametrize("cloud_rotary", [True, False])
def test_arguments_that_the_edge_would_misread(cloud_rotary: bool) -> None:
    def model(rotary: bool) -> Any:
        module = torch.nn.Module()
        module.config = {"use_rotary_positional_embeddings": rotary}
        return module

    given = {"image_rotary_emb": (1, 2), "return_dict": False}
    dropped = {"image_rotary_emb": None, "return_dict": False}
    assert arguments_for(model(not cloud_rotary), given) == (dropped if cloud_rotary else given)
    if cloud_rotary:
        check_edge(model(True), model(False))
    else:
        with refused(PairError, key="edge.use_rotary_positional_embeddings", got=True):
            check_edge(model(False), model(True))


def test_an_edge_that_was_hooked_later(tiny_config: TunedConfig, tiny_pair: Path) -> None:
    cloud, edge = (load(tiny_pair / side) for side in ("cloud", "edge"))
    apply_ecdiff(cloud, tiny_config, edge=edge)
    expected = run(cloud)
    apply_ecdiff(edge, with_plan(tiny_config, "cloud"), check_weights=False)
    with refused(PairError, key="edge", got="hooked"):
        run(cloud)
    remove_ecdiff(edge)
    assert torch.equal(run(cloud), expected)
