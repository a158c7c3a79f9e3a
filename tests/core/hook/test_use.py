"""What a person may do with a hooked pipeline: nothing is kept from call to call."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from ecdiff_core import ECDiffPipeline, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.sampling.schedulers import build_scheduler

from ...hooking import (
    CALLS,
    CLASSES,
    PROMPT,
    STEPS,
    Pipe,
    assert_close,
    counted,
    load,
    rounding,
    run,
    seeded,
    with_plan,
)
from ...refusals import refused

both = pytest.mark.parametrize("kind", ["sd", "sdxl"], indirect=True)


# From call to call.


@pytest.mark.filterwarnings("ignore:The call has guidance_scale")
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
@pytest.mark.filterwarnings("ignore:The cloud carries the adapter")
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
        with refused(PairError, key="pipe", got="copy"):
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
    with refused(PairError, key="pipe", got="hooked"):
        apply_ecdiff(other, config, edge=edge)
    other.scheduler = build_scheduler("DDIMScheduler", other.scheduler)
    for steps in (STEPS, 24):
        with refused(ParamsError, key="pipe", got="StableDiffusionPipeline"):
            run(other, num_inference_steps=steps)
    from_image = StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False)
    from_image.set_progress_bar_config(disable=True)
    with refused(ParamsError, key="step", got=6, expected="0"):
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
