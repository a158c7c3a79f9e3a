"""Inside diffusers' own pipelines: the latents of ECDiffPipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from ecdiff_core import ECDiffPipeline, TunedConfig, apply_ecdiff
from ecdiff_core.errors import PairError
from ecdiff_core.sampling.schedulers import build_scheduler

from ...hooking import (
    CALLS,
    PLANS,
    PROMPT,
    STEPS,
    Pipe,
    assert_close,
    counted,
    denoise,
    load,
    rounding,
    run,
    seeded,
    with_plan,
    with_sampling,
)
from ...refusals import refused

PROMPTS = [PROMPT, "a small green ring", "two words"]

both = pytest.mark.parametrize("kind", ["sd", "sdxl"], indirect=True)


@pytest.mark.parametrize(
    ("kind", "name"), [("sd", name) for name in PLANS] + [("sdxl", "tuned")], indirect=["kind"]
)
def test_same_latents_and_counts(kind: str, name: str, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    config = with_plan(config, name)
    expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded())
    apply_ecdiff(pipe, config, edge=edge)
    assert pipe.ecdiff.summary() == "no generation yet"
    with counted(cloud=pipe.unet.conv_in, edge=edge.unet.conv_in) as calls:
        latents = run(pipe)
    assert_close(latents, expected.latents, None if kind == "sd" else rounding(latents))
    assert pipe.ecdiff.plan == expected.plan
    assert (
        pipe.ecdiff.calls == calls == {"cloud": expected.plan.cloud_calls, "edge": expected.plan.edge_calls}
    )
    assert (
        pipe.ecdiff.summary() == f"{expected.plan} ({calls['cloud']} cloud calls, {calls['edge']} edge calls)"
    )


def test_edge_calls_beside_the_cloud_s_steps_are_counted(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    config = with_sampling(with_plan(config, "no edge"), estimator="edge")
    with refused(PairError, key="edge", expected="an edge model"):
        apply_ecdiff(pipe, config)
    apply_ecdiff(pipe, config, edge=edge)
    with counted(cloud=pipe.unet.conv_in, edge=edge.unet.conv_in) as calls:
        run(pipe)
    assert pipe.ecdiff.calls == calls == {"cloud": 7, "edge": 10}  # 1C1B1M1B1M1B1M1B1M1B1M1C
    assert pipe.ecdiff.summary() == (
        "12 steps = 7 cloud + 0 approximated + 5 edge, 5 more edge calls for the residual "
        "(7 cloud calls, 10 edge calls)"
    )


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize(
    "scheduler",
    ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "PNDMScheduler"],
)
def test_same_latents_with_other_schedulers(
    scheduler: str, guidance_scale: float, config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    config = with_sampling(config, scheduler=scheduler, guidance_scale=guidance_scale)
    expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded())
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    apply_ecdiff(pipe, config, edge=edge.unet)
    assert_close(run(pipe, guidance_scale=guidance_scale), expected.latents)
    assert pipe.ecdiff.summary().startswith(str(expected.plan))


@pytest.mark.parametrize("estimator", ["reuse", "secant", "newton2", "edge"])
def test_negative_prompts_and_other_estimators(
    estimator: str, config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    config = with_sampling(config, estimator=estimator)
    ours = ECDiffPipeline.from_config(config, device="cpu")
    negatives = ["a dark background", "", "blue"]
    expected = ours(PROMPTS, negative_prompt=negatives, generator=seeded()).latents
    apply_ecdiff(pipe, config, edge=edge)
    assert_close(run(pipe, PROMPTS, negative_prompt=negatives), expected)


@both
def test_several_images_a_prompt(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(2)]
    expected = ECDiffPipeline.from_config(config, device="cpu")(prompts, generator=seeded())
    apply_ecdiff(pipe, config, edge=edge)
    assert_close(
        run(pipe, PROMPTS[:2], num_images_per_prompt=2), expected.latents, rounding(expected.latents)
    )


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler"])
@torch.no_grad()
def test_called_once_a_branch(scheduler: str, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """PNDM repeats a timestep: a step of its own, not a further branch."""
    config = with_sampling(config, scheduler=scheduler)
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    apply_ecdiff(pipe, config, edge=edge)
    together, plan = denoise(pipe, 1), config.plan()
    assert pipe.ecdiff.calls == {"cloud": plan.cloud_calls, "edge": plan.edge_calls}
    apart = denoise(pipe, 2, return_dict=False)
    assert pipe.ecdiff.calls == {"cloud": 2 * plan.cloud_calls, "edge": 2 * plan.edge_calls}
    calls = f"({2 * plan.cloud_calls} cloud calls, {2 * plan.edge_calls} edge calls)"
    assert pipe.ecdiff.summary() == f"{plan} {calls}"
    assert_close(apart, together, rounding(together))
    assert torch.equal(denoise(pipe, 2), apart)


@torch.no_grad()
def test_kind_of_output(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    model_input = (torch.ones(1, 4, 8, 8), torch.ones(1, 24, 32))
    for return_dict, kind in ((True, UNet2DConditionOutput), (False, tuple)):
        pipe.scheduler.set_timesteps(STEPS)
        for t in pipe.scheduler.timesteps:
            output = pipe.unet(model_input[0], t, model_input[1], return_dict=return_dict)
            assert type(output) is kind
            assert output[0].dtype is torch.float32
            assert output[0].shape == (1, 4, 8, 8)


@both
@torch.no_grad()
def test_half_precision(kind: str, config: TunedConfig, folder: Path) -> None:
    pipe = load(folder / "cloud", kind=kind).to(torch.bfloat16)
    edge = load(folder / "edge", kind=kind)
    apply_ecdiff(pipe, config, edge=edge)
    with refused(PairError, key="edge.dtype", got="torch.float32", expected="torch.bfloat16"):
        run(pipe)
    edge.to(torch.bfloat16)
    assert run(pipe).dtype is torch.bfloat16
    assert pipe.ecdiff.calls == CALLS
