"""Arguments of a pipeline's call that its model never sees: refused where the plan does not hold for them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPAGPipeline,
)
from torch import Tensor

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig, apply_ecdiff
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.hook.fit import check_added
from ecdiff_core.sampling.schedulers import build_scheduler

from ...hooking import Pipe, run, with_sampling
from ...refusals import refused


@pytest.mark.parametrize(("name", "value"), [("eta", 0.5), ("guidance_rescale", 0.7)])
def test_what_the_plan_does_not_hold_for(
    name: str, value: float, config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    with refused(ParamsError, key=name, got=value):
        run(pipe, **{name: value})
    assert pipe.ecdiff.calls == {"cloud": 0, "edge": 0}
    assert torch.equal(run(pipe), expected)


def test_what_changes_nothing(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, with_sampling(config, guidance_scale=1.0), edge=edge)
    plain = run(pipe, guidance_scale=1.0)
    assert torch.equal(run(pipe, guidance_scale=1.0, guidance_rescale=0.7), plain)  # nothing to rescale
    pipe.scheduler = build_scheduler("EulerDiscreteScheduler", pipe.scheduler)
    euler = with_sampling(config, scheduler="EulerDiscreteScheduler")
    apply_ecdiff(pipe, euler, edge=edge)
    assert torch.equal(run(pipe, eta=0.5), run(pipe))  # diffusers does not hand it to this one


def test_perturbed_attention(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """On by default in pipelines that have it, and its batch of three goes to the edge as well."""
    own = StableDiffusionPAGPipeline(
        **pipe.components, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    own.set_progress_bar_config(disable=True)
    processors = pipe.unet.attn_processors
    apply_ecdiff(own, config, edge=edge)
    with refused(ParamsError, key="pag_scale", got=3.0, advice=re.compile("pag_scale=0")):
        run(own)
    pipe.unet.set_attn_processor(processors)  # which diffusers leaves behind where a call raises
    assert torch.equal(run(own, pag_scale=0.0), run(pipe))


def test_skipped_layers(sd3_pair_without_t5: Path) -> None:
    folder = sd3_pair_without_t5
    pipe, edge = (
        StableDiffusion3Pipeline.from_pretrained(folder / side, text_encoder_3=None, tokenizer_3=None)
        for side in ("cloud", "edge")
    )
    pipe.set_progress_bar_config(disable=True)
    spec = PairSpec("sd3", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge")))
    sampling = Sampling(4, "FlowMatchEulerDiscreteScheduler", 3.0)
    config = TunedConfig(spec, ECDiffParams(p=0, k=0, alpha=1.0, s=3), sampling)
    apply_ecdiff(pipe, config, edge=edge)
    with refused(ParamsError, key="skip_guidance_layers", got=[0]):
        run(pipe, num_inference_steps=4, skip_guidance_layers=[0])
    run(pipe, num_inference_steps=4)
    assert pipe.ecdiff.calls == {"cloud": 3, "edge": 1}


@pytest.mark.parametrize("at", [3, 11])
def test_settings_that_another_call_overwrites(at: int, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """A second call sets its own scale before it comes to its first step, be it in the last one of this."""
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    model, step = (pipe.unet if at == 3 else edge.unet), (0 if at == 3 else 2)
    calls: list[int] = []

    def overwrite(*_: Any) -> None:
        calls.append(1)
        if len(calls) == step + 1:
            pipe._guidance_scale = 7.0

    handle = (model.conv_in if at == 3 else model.conv_out).register_forward_hook(overwrite)
    with refused(ParamsError, key="pipe", got="busy"):
        run(pipe)
    handle.remove()
    assert torch.equal(run(pipe), expected)


def test_callbacks_may_change_the_scale(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    def lower(own: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        own._guidance_scale = 2.0
        return given

    apply_ecdiff(pipe, config, edge=edge)
    assert run(pipe, callback_on_step_end=lower).isfinite().all()


def test_images_beside_the_prompt() -> None:
    """An IP-Adapter of the cloud alone: the edge's steps would go by the prompt."""
    cloud, bare = SimpleNamespace(encoder_hid_proj=1), SimpleNamespace(encoder_hid_proj=None)
    given = {"added_cond_kwargs": {"image_embeds": [torch.zeros(1)]}}
    with refused(PairError, key="image_embeds", expected=["encoder_hid_proj"]):
        check_added(cloud, bare, given)  # type: ignore[arg-type]
    for edge, said in ((cloud, given), (bare, {"added_cond_kwargs": None}), (bare, {})):
        check_added(cloud, edge, said)  # type: ignore[arg-type]


def test_a_scheduler_for_other_models(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    pipe.scheduler = EDMEulerScheduler()
    with refused(PairError, key="scheduler", got="EDMEulerScheduler", expected="noise"):
        apply_ecdiff(pipe, with_sampling(config, scheduler="EDMEulerScheduler"), edge=edge)
