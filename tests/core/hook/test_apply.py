"""Inside diffusers' own pipelines: the latents of ECDiffPipeline, nothing kept from call to call."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    SD3Transformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

from ecdiff_core import ECDiffPipeline, ModelRef, PairSpec, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.schedulers import build_scheduler

from ...hooking import (
    CALLS,
    CLASSES,
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

PROMPTS = [PROMPT, "a small green ring", "two words"]

PRK = {"skip_prk_steps": False}
"""PNDM with its Runge-Kutta start, four calls a step."""

both = pytest.mark.parametrize("kind", ["sd", "sdxl"], indirect=True)


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Stable Diffusion where a test does not ask for another."""
    return str(getattr(request, "param", "sd"))


@pytest.fixture(scope="module")
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue({"sd": "tiny_pair", "sdxl": "sdxl_pair"}[kind]))


@pytest.fixture(scope="module")
def config(kind: str, folder: Path, tiny_config: TunedConfig) -> TunedConfig:
    """With the plan ``tuned``, ``3C2A1C2A1C3E``."""
    pair = PairSpec(kind, ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge")))
    return replace(tiny_config, pair=pair)


@pytest.fixture(scope="module")
def loaded(kind: str, folder: Path) -> tuple[Pipe, Pipe]:
    cloud, edge = (load(folder / side, kind=kind) for side in ("cloud", "edge"))
    return cloud, edge


@pytest.fixture
def pipe(loaded: tuple[Pipe, Pipe]) -> Iterator[Pipe]:
    """The cloud's pipeline, bare before and after."""
    own, _ = loaded
    scheduler, unet = own.scheduler, own.unet
    yield own
    remove_ecdiff(own)
    own.scheduler, own.unet = scheduler, unet
    assert not {"_hf_hook", "_diffusers_hook"} & set(vars(unet))


@pytest.fixture
def edge(loaded: tuple[Pipe, Pipe]) -> Pipe:
    return loaded[1]


# The same latents.


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
    with pytest.raises(PairError, match=r"The plan calls the edge model \(.*\): give apply_ecdiff one"):
        apply_ecdiff(pipe, config)
    apply_ecdiff(pipe, config, edge=edge)
    with counted(cloud=pipe.unet.conv_in, edge=edge.unet.conv_in) as calls:
        run(pipe)
    assert pipe.ecdiff.calls == calls == {"cloud": 7, "edge": 10}  # 1C1B1M1B1M1B1M1B1M1B1M1C
    assert pipe.ecdiff.summary() == (
        "12 steps = 7 cloud + 5 approximated + 0 edge (7 cloud calls, 10 edge calls)"
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
    with pytest.raises(PairError, match=r"edge model is in torch.float32, the cloud in torch.bfloat16"):
        run(pipe)
    edge.to(torch.bfloat16)
    assert run(pipe).dtype is torch.bfloat16
    assert pipe.ecdiff.calls == CALLS


# From call to call.


@both
def test_from_a_file_and_again(config: TunedConfig, pipe: Pipe, edge: Pipe, tmp_path: Path) -> None:
    """Two calls are equal, whatever the one between; applied again, the new config replaces the old one."""
    config.save(tmp_path / "ecdiff.yaml")
    apply_ecdiff(pipe, tmp_path / "ecdiff.yaml", edge=edge)
    first = run(pipe)
    for between in (
        {"seed": 1},
        {"guidance_scale": 1.0},
        {"num_images_per_prompt": 3},
        {"height": 48, "width": 32},
    ):
        assert not torch.equal(run(pipe, **between), first)
        assert torch.equal(run(pipe), first)
    apply_ecdiff(pipe, with_plan(config, "no edge"))
    assert (run(pipe) - first).abs().max() > 1e-3
    assert pipe.ecdiff.calls["edge"] == 0
    apply_ecdiff(pipe, str(tmp_path / "ecdiff.yaml"), edge=edge)
    assert torch.equal(run(pipe), first)


@pytest.mark.parametrize(
    ("kind", "at"), [("sd", 0), ("sd", 1), ("sd", 4), ("sd", STEPS - 1), ("sdxl", 4)], indirect=["kind"]
)
def test_a_call_after_an_interrupted_one(at: int, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    def stop(_: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == at:
            raise KeyboardInterrupt
        return given

    def interrupt(own: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        own._interrupt = step == at  # as diffusers tells it
        return given

    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, seed=1, callback_on_step_end=stop)
    assert pipe.ecdiff.summary().startswith(f"{at + 1} steps = ")
    assert torch.equal(run(pipe), expected)
    run(pipe, seed=1, callback_on_step_end=interrupt)
    assert pipe.ecdiff.summary().startswith(f"{at + 1} steps = ")
    assert torch.equal(run(pipe), expected)
    assert pipe.ecdiff.summary().startswith(f"{STEPS} steps = ")


@both
def test_callbacks_see_and_change_latents(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    steps: list[int] = []

    def double(_: Pipe, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": given["latents"] * (2 if step == STEPS - 1 else 1)}

    apply_ecdiff(pipe, config, edge=edge)
    assert_close(run(pipe, callback_on_step_end=double), 2 * run(pipe))
    assert steps == list(range(STEPS))


@both
def test_remove(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    forward, before = pipe.unet.forward, run(pipe)
    remove_ecdiff(pipe)  # nothing to do
    apply_ecdiff(pipe, config, edge=edge)
    assert (run(pipe) - before).abs().max() > 1e-3
    assert pipe.unet.forward != forward
    remove_ecdiff(pipe)
    assert pipe.unet.forward == forward
    assert not hasattr(pipe.unet, "_diffusers_hook")
    assert not hasattr(pipe, "ecdiff")
    assert torch.equal(run(pipe), before)


@both
@pytest.mark.parametrize("first", ["offload", "apply"])
def test_model_cpu_offload(first: str, config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """Offload replaces forward after every call; neither it nor the hook may get lost, in any order."""
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    if first == "offload":
        remove_ecdiff(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        apply_ecdiff(pipe, config, edge=edge)
    else:
        pipe.enable_model_cpu_offload(device="cpu")
    try:
        for _ in range(2):
            with counted(cloud=pipe.unet.conv_in, edge=edge.unet.conv_in) as calls:
                assert_close(run(pipe), expected, rounding(expected))
            assert pipe.ecdiff.calls == calls == CALLS
        remove_ecdiff(pipe)
        assert hasattr(pipe.unet, "_hf_hook")
        for _ in range(2):
            with counted(cloud=pipe.unet.conv_in) as calls:
                run(pipe)
            assert calls == {"cloud": STEPS}
    finally:
        pipe.remove_all_hooks()


@pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="LoRA needs peft, which is not installed"
)
@both
def test_lora(kind: str, config: TunedConfig, folder: Path, edge: Pipe, tmp_path: Path) -> None:
    """Loaded on the pipeline before or after; the cloud's real calls have it, and so have estimates."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    donor = load(folder / "cloud", kind=kind)
    donor.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    donor.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(donor.unet))
    ours = ECDiffPipeline.from_config(config, device="cpu")
    without = ours(PROMPT, generator=seeded()).latents
    ours.pair.family.pipeline.load_lora_weights(tmp_path)
    expected = ours(PROMPT, generator=seeded()).latents
    assert (expected - without).abs().max() > 1e-2

    pipe = load(folder / "cloud", kind=kind)
    apply_ecdiff(pipe, config, edge=edge)
    pipe.load_lora_weights(tmp_path)
    assert_close(run(pipe), expected, rounding(expected))
    pipe.unload_lora_weights()
    assert_close(run(pipe), without, rounding(without))
    remove_ecdiff(pipe)
    pipe.load_lora_weights(tmp_path)
    bare = run(pipe, cross_attention_kwargs={"scale": 0.5})
    apply_ecdiff(pipe, config, edge=edge)
    assert_close(run(pipe), expected, rounding(expected))
    apply_ecdiff(pipe, with_plan(config, "cloud"))
    assert_close(run(pipe, cross_attention_kwargs={"scale": 0.5}), bare, rounding(bare))


# What a person may do to a hooked pipeline.


def test_copies_are_tied_to_the_original_until_removed(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    bare = run(pipe)
    apply_ecdiff(pipe, config, edge=edge)
    shared = run(pipe)
    for copied in (copy.deepcopy(pipe), SimpleNamespace(unet=copy.deepcopy(pipe.unet))):
        with pytest.raises(PairError, match="copy of one that apply_ecdiff was applied to"):
            copied.unet(torch.ones(1, 4, 8, 8), 981, torch.ones(1, 24, 32))
    copied = copy.deepcopy(pipe)
    remove_ecdiff(copied)
    copied.unet.conv_out.bias.data += 0.1
    assert not torch.equal(run(copied), bare)
    apply_ecdiff(copied, config, edge=edge)
    assert not torch.equal(run(copied), shared)
    assert torch.equal(run(pipe), shared)
    shallow = copy.copy(pipe)
    assert torch.equal(run(shallow), shared)
    remove_ecdiff(shallow)
    assert torch.equal(run(pipe), bare)


def test_saved_without_a_trace(
    kind: str, config: TunedConfig, pipe: Pipe, edge: Pipe, tmp_path: Path
) -> None:
    expected = run(pipe)
    apply_ecdiff(pipe, config, edge=edge)
    run(pipe)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path, kind=kind)
    assert not hasattr(again, "ecdiff")
    assert torch.equal(run(again), expected)


def test_pipelines_that_share_a_model(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    bare = run(pipe)
    apply_ecdiff(pipe, config, edge=edge)
    shared = run(pipe)
    other = CLASSES["sd"].from_pipe(pipe, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(run(other), shared)
    assert pipe.ecdiff.calls == CALLS
    with pytest.raises(PairError, match="by way of another pipeline: call remove_ecdiff first"):
        apply_ecdiff(other, config, edge=edge)
    other.scheduler = build_scheduler("DDIMScheduler", other.scheduler)
    with pytest.raises(ParamsError, match="if another pipeline shares the model"):
        run(other, num_inference_steps=24)
    from_image = StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False)
    from_image.set_progress_bar_config(disable=True)
    with pytest.raises(ParamsError, match="no image to image"):
        from_image(PROMPT, image=torch.zeros(1, 3, 32, 32), strength=0.5, num_inference_steps=STEPS)
    assert torch.equal(run(pipe), shared)
    remove_ecdiff(other)
    assert not hasattr(pipe, "ecdiff")
    assert torch.equal(run(pipe), bare)


def test_another_denoiser_is_told(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    own = pipe.unet
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    pipe.unet = UNet2DConditionModel.from_config(own.config)
    pipe.unet.load_state_dict(own.state_dict())
    run(pipe)
    assert pipe.ecdiff.summary() == "not in use: the pipeline got another denoiser since apply_ecdiff"
    apply_ecdiff(pipe, config, edge=edge)
    assert not hasattr(own, "_diffusers_hook")
    assert torch.equal(run(pipe), expected)


# Refusals.


@both
def test_another_number_of_steps(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    expected = run(pipe)
    with pytest.raises(
        ParamsError, match=r"num_inference_steps=12, .* got 24.*p=6, k=2, s=18, num_inf\w*=24"
    ):
        run(pipe, num_inference_steps=24)
    assert torch.equal(run(pipe), expected)


@pytest.mark.parametrize(("name", "changes"), [("HeunDiscreteScheduler", {}), ("PNDMScheduler", PRK)])
def test_schedulers_that_call_the_model_more_often(
    name: str, changes: dict[str, bool], config: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    scheduler = build_scheduler(name, pipe.scheduler)
    pipe.scheduler = scheduler.from_config(scheduler.config, **changes)
    apply_ecdiff(pipe, with_sampling(config, scheduler=name), edge=edge)
    with pytest.raises(ParamsError, match=rf"one model call a step, got \d+ calls for 1\d steps from {name}"):
        run(pipe)


def test_another_scheduler(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    pipe.scheduler = build_scheduler("EulerDiscreteScheduler", pipe.scheduler)
    message = r"scheduler to be DDIMScheduler.* got EulerDiscreteScheduler.*check_scheduler=False"
    with pytest.raises(ParamsError, match=message):
        run(pipe)
    with pytest.raises(ParamsError, match=message):
        apply_ecdiff(pipe, config, edge=edge)
    apply_ecdiff(pipe, config, edge=edge, check_scheduler=False)
    assert run(pipe).isfinite().all()
    drawing = with_sampling(config, scheduler="DDPMScheduler")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ParamsError, match="DDPMScheduler draws fresh noise"):
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
    with pytest.raises(ParamsError, match=r"batch \(1\) or its number of calls changed at step 5"):
        run(pipe, **cut(4))
    assert run(pipe, **cut(9)).isfinite().all()
    assert torch.equal(run(pipe), expected)


def test_not_from_the_first_timestep(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, config, edge=edge)
    pipe.scheduler.set_timesteps(STEPS)
    with pytest.raises(ParamsError, match="Expected step 0 of the generation, got step 4"):
        pipe.unet(torch.ones(1, 4, 8, 8), pipe.scheduler.timesteps[4], torch.ones(1, 24, 32))
    with pytest.raises(ParamsError, match=r"one of the 12 timesteps .*got 3\.5"):
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
    for given, message in (
        (None, r"calls the edge model \(12 steps = .*give apply_ecdiff one"),
        (pipe, "own denoiser"),
        (pipe.unet, "own denoiser"),
        ("edge", "str has neither unet nor transformer"),
        (three, "in_channels is 3, the cloud's 4"),
        (
            narrow,
            r"cross_attention_dim is 48, the cloud's 32 \(the edge cannot take the cloud's embeddings\)",
        ),
        (pooled, "addition_embed_type is text_time, the cloud's None"),
        (other, "it is a SD3Transformer2DModel, the cloud a UNet2DConditionModel"),
    ):
        with pytest.raises(PairError, match=message):
            apply_ecdiff(pipe, config, edge=given)
    apply_ecdiff(edge, with_plan(config, "cloud"))
    with pytest.raises(PairError, match="remove_ecdiff"):
        apply_ecdiff(pipe, config, edge=edge)
    remove_ecdiff(edge)
    with pytest.raises(ConfigError, match="give apply_ecdiff the edge's diffusers pipeline"):
        apply_ecdiff(pipe, with_sampling(config, handoff_adapter="matched"), edge=edge.unet)
    with pytest.raises(PairError, match="takes no timestep"):
        apply_ecdiff(SimpleNamespace(unet=torch.nn.Linear(1, 1)), config, edge=edge)
    with pytest.raises(PairError, match="two denoisers"):
        apply_ecdiff(SimpleNamespace(transformer=pipe.unet, transformer_2=pipe.unet), config, edge=edge)
    assert not hasattr(pipe, "ecdiff")


def test_calls_that_make_no_sense(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    with pytest.raises(PairError, match="Expected a diffusers pipeline, got its UNet2DConditionModel"):
        apply_ecdiff(pipe.unet, config, edge=edge)
    for given in (None, {"params": {}}):
        with pytest.raises(ConfigError, match=f"the path of its YAML file, got {type(given).__name__}"):
            apply_ecdiff(pipe, given, edge=edge)
    assert not hasattr(pipe, "ecdiff")


def test_residuals_that_fit_the_cloud_s_blocks_alone(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """Told at the first step, not where the edge's turn comes."""
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96))
    parts = {**pipe.components, "controlnet": controlnet, "safety_checker": None, "feature_extractor": None}
    own = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    given = {"image": torch.zeros(1, 3, 32, 32), "height": 32, "width": 32}
    apply_ecdiff(own, config, edge=edge)
    with (
        counted(cloud=pipe.unet.conv_in) as calls,
        pytest.raises(PairError, match=r"adds down_block_additional_residuals .*layers_per_block is 1, .* 2"),
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
    with pytest.raises(ParamsError, match=r"Expected a whole generation, got denoising_end=0\.5"):
        run(pipe, denoising_end=0.5)
    assert torch.equal(run(pipe), expected)
