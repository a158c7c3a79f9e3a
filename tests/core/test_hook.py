"""Inside diffusers' own pipelines: the latents of ECDiffPipeline, nothing kept from call to call."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ecdiff_core import ECDiffParams, ECDiffPipeline, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.hook_checks import arguments_for, check_edge
from ecdiff_core.schedulers import build_scheduler
from ecdiff_core.tracking import StepTracker

PROMPT = "a large red circle left of a small blue star, on a dark plain background"
PROMPTS = [PROMPT, "a small green ring", "two words"]
STEPS = 12
T = Any  # a diffusers pipeline: diffusers is untyped


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_sampling(config: TunedConfig, **changes: object) -> TunedConfig:
    return replace(config, sampling=replace(config.sampling, **changes))


def with_params(config: TunedConfig, p: int, k: int, alpha: float, s: int) -> TunedConfig:
    return replace(config, params=ECDiffParams(p=p, k=k, alpha=alpha, s=s))


def load(folder: Path, scheduler: str = "DDIMScheduler") -> T:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def loaded(tiny_pair: Path) -> tuple[T, T]:
    return load(tiny_pair / "cloud"), load(tiny_pair / "edge")


@pytest.fixture
def pipe(loaded: tuple[T, T]) -> Iterator[T]:
    """The cloud's pipeline, bare before and after."""
    own, _ = loaded
    scheduler = own.scheduler
    yield own
    remove_ecdiff(own)
    own.scheduler = scheduler
    assert "_hf_hook" not in vars(own.unet)


@pytest.fixture
def edge(loaded: tuple[T, T]) -> T:
    return loaded[1]


def run(pipe: T, prompt: str | list[str] = PROMPT, seed: int = 0, **settings: Any) -> Tensor:
    given = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **settings}
    return pipe(prompt, generator=seeded(seed), output_type="latent", **given).images


def assert_close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    assert one.shape == other.shape
    assert one.std() > 0.1
    assert (one - other).abs().max() <= tolerance


@contextmanager
def counted(**models: torch.nn.Module) -> Iterator[dict[str, int]]:
    """How often the models really compute, seen from inside: their first layer."""
    calls = dict.fromkeys(models, 0)

    def count(name: str) -> Any:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    handles = [model.conv_in.register_forward_hook(count(name)) for name, model in models.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


PLANS = {
    "tuned": (3, 2, 0.3, 9, "aligned"),
    "exact": (3, 3, 0.4, 9, "exact"),
    "hybrid": (0, 0, 1.0, 5, "aligned"),
    "cloud": (0, 0, 1.0, STEPS, "aligned"),
    "edge": (0, 0, 1.0, 0, "aligned"),
    "no edge": (2, 1, 0.5, STEPS, "aligned"),
}


@pytest.mark.parametrize("name", PLANS)
def test_same_latents_and_counts(name: str, tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    *params, handoff = PLANS[name]
    config = with_sampling(with_params(tiny_config, *params), handoff=handoff)
    expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded())
    apply_ecdiff(pipe, config, edge=edge)
    assert pipe.ecdiff.summary() == "no generation yet"
    with counted(cloud=pipe.unet, edge=edge.unet) as calls:
        latents = run(pipe)
    assert_close(latents, expected.latents)
    assert pipe.ecdiff.plan == expected.plan
    assert (
        pipe.ecdiff.calls == calls == {"cloud": expected.plan.cloud_calls, "edge": expected.plan.edge_calls}
    )
    assert (
        pipe.ecdiff.summary() == f"{expected.plan} ({calls['cloud']} cloud calls, {calls['edge']} edge calls)"
    )


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize(
    "scheduler", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"]
)
def test_same_latents_with_other_schedulers(
    scheduler: str, guidance_scale: float, tiny_config: TunedConfig, pipe: T, edge: T
) -> None:
    config = with_sampling(tiny_config, scheduler=scheduler, guidance_scale=guidance_scale)
    expected = ECDiffPipeline.from_config(config, device="cpu")(PROMPT, generator=seeded()).latents
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    apply_ecdiff(pipe, config, edge=edge.unet)
    assert_close(run(pipe, guidance_scale=guidance_scale), expected)


def test_negative_prompts_and_reuse(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    config = with_sampling(tiny_config, estimator="reuse")
    ours = ECDiffPipeline.from_config(config, device="cpu")
    negatives = ["a dark background", "", "blue"]
    expected = ours(PROMPTS, negative_prompt=negatives, generator=seeded()).latents
    apply_ecdiff(pipe, config, edge=edge)
    assert_close(run(pipe, PROMPTS, negative_prompt=negatives), expected)


def test_several_images_a_prompt(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    expected = ECDiffPipeline.from_config(tiny_config, device="cpu")([PROMPT] * 2, generator=seeded())
    apply_ecdiff(pipe, tiny_config, edge=edge)
    assert_close(run(pipe, num_images_per_prompt=2), expected.latents)


def test_from_a_file_and_again(tiny_config: TunedConfig, pipe: T, edge: T, tmp_path: Path) -> None:
    """Two calls are equal; applied again, the new config replaces the old one."""
    tiny_config.save(tmp_path / "ecdiff.yaml")
    apply_ecdiff(pipe, tmp_path / "ecdiff.yaml", edge=edge)
    first = run(pipe)
    assert (run(pipe, seed=1) - first).abs().max() > 0.1
    assert torch.equal(run(pipe), first)
    apply_ecdiff(pipe, with_params(tiny_config, *PLANS["no edge"][:4]))
    assert (run(pipe) - first).abs().max() > 1e-3
    assert pipe.ecdiff.calls["edge"] == 0
    apply_ecdiff(pipe, str(tmp_path / "ecdiff.yaml"), edge=edge)
    assert torch.equal(run(pipe), first)


@pytest.mark.parametrize("at", [0, 1, 4, STEPS - 1])
def test_a_call_after_an_interrupted_one(at: int, tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    def stop(_: T, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == at:
            raise KeyboardInterrupt
        return given

    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, seed=1, callback_on_step_end=stop)
    assert pipe.ecdiff.summary().startswith(f"{at + 1} steps = ")
    assert torch.equal(run(pipe), expected)
    assert pipe.ecdiff.summary().startswith(f"{STEPS} steps = ")


def test_callbacks_see_and_change_latents(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    steps: list[int] = []

    def double(_: T, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": given["latents"] * (2 if step == STEPS - 1 else 1)}

    apply_ecdiff(pipe, tiny_config, edge=edge)
    assert_close(run(pipe, callback_on_step_end=double), 2 * run(pipe))
    assert steps == list(range(STEPS))


def test_remove(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    forward, before = pipe.unet.forward, run(pipe)
    remove_ecdiff(pipe)  # nothing to do
    apply_ecdiff(pipe, tiny_config, edge=edge)
    assert (run(pipe) - before).abs().max() > 1e-3
    assert pipe.unet.forward != forward
    remove_ecdiff(pipe)
    assert pipe.unet.forward == forward
    assert not hasattr(pipe.unet, "_diffusers_hook")
    assert not hasattr(pipe, "ecdiff")
    assert torch.equal(run(pipe), before)


@pytest.mark.parametrize("first", ["offload", "apply"])
def test_model_cpu_offload(first: str, tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    """Offload replaces forward after every call; neither it nor the hook may get lost, in any order."""
    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    if first == "offload":
        remove_ecdiff(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        apply_ecdiff(pipe, tiny_config, edge=edge)
    else:
        pipe.enable_model_cpu_offload(device="cpu")
    try:
        for _ in range(2):
            with counted(cloud=pipe.unet, edge=edge.unet) as calls:
                assert torch.equal(run(pipe), expected)
            assert pipe.ecdiff.calls == calls == {"cloud": 5, "edge": 3}
        remove_ecdiff(pipe)
        assert hasattr(pipe.unet, "_hf_hook")
        for _ in range(2):
            with counted(cloud=pipe.unet) as calls:
                run(pipe)
            assert calls == {"cloud": STEPS}
    finally:
        pipe.remove_all_hooks()


@pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="LoRA needs peft, which is not installed"
)
def test_lora(tiny_config: TunedConfig, tiny_pair: Path, edge: T) -> None:
    from peft import LoraConfig

    pipe = load(tiny_pair / "cloud")
    bare = run(pipe)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    apply_ecdiff(pipe, with_params(tiny_config, *PLANS["cloud"][:4]), edge=edge)
    with_lora = run(pipe, cross_attention_kwargs={"scale": 0.5})
    remove_ecdiff(pipe)
    assert_close(with_lora, run(pipe, cross_attention_kwargs={"scale": 0.5}))
    assert (with_lora - bare).abs().max() > 1e-3
    apply_ecdiff(pipe, tiny_config, edge=edge)
    assert run(pipe, cross_attention_kwargs={"scale": 0.5}).isfinite().all()


@pytest.mark.parametrize("way", ["compiled, applied", "applied, compiled", "in place", "fullgraph"])
def test_compiled_without_recompilation(
    way: str, tiny_config: TunedConfig, tiny_pair: Path, pipe: T, edge: T
) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    compiled = load(tiny_pair / "cloud")
    apply_ecdiff(compiled, tiny_config, edge=edge)
    remove_ecdiff(compiled)  # leaves nothing behind that would be compiled
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    if way == "applied, compiled":
        apply_ecdiff(compiled, tiny_config, edge=edge)
    if way == "in place":
        compiled.unet.compile(backend=counter)
    else:
        compiled.unet = torch.compile(compiled.unet, backend=counter, fullgraph=way == "fullgraph")
    if way != "applied, compiled":
        apply_ecdiff(compiled, tiny_config, edge=edge)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_close(run(compiled), expected)
        graphs = counter.frame_count
        assert graphs > 0
        assert torch.equal(run(compiled), run(compiled))
    assert counter.frame_count == graphs
    assert compiled.ecdiff.calls == {"cloud": 5, "edge": 3}
    remove_ecdiff(compiled)
    assert_close(run(compiled), run(load(tiny_pair / "cloud")))


def denoise(pipe: T, branches: int, **arguments: Any) -> Tensor:
    """A loop as pipelines make it: the model once a step for both branches, or (Flux, Wan) for each."""
    pipe.scheduler.set_timesteps(STEPS)
    text = torch.randn(2, 24, 32, generator=seeded(5))
    latents = torch.randn(1, 4, 8, 8, generator=seeded())
    for t in pipe.scheduler.timesteps:
        told = t.expand(2 // branches)
        if branches == 2:
            with_prompt = pipe.unet(latents, told, encoder_hidden_states=text[1:], **arguments)[0]
            without = pipe.unet(latents, told, encoder_hidden_states=text[:1], **arguments)[0]
        else:
            both = pipe.unet(torch.cat([latents] * 2), told, encoder_hidden_states=text, **arguments)[0]
            without, with_prompt = both.chunk(2)
        output = without + 3.0 * (with_prompt - without)
        with_prompt.zero_()  # what the hook remembers is not what it gave
        latents = pipe.scheduler.step(output, t, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def test_called_once_a_branch(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    together = denoise(pipe, 1)
    assert pipe.ecdiff.calls == {"cloud": 5, "edge": 3}
    apart = denoise(pipe, 2, return_dict=False)
    assert pipe.ecdiff.calls == {"cloud": 10, "edge": 6}
    assert pipe.ecdiff.summary() == f"{tiny_config.plan()} (10 cloud calls, 6 edge calls)"
    rounding = 1e-5 * together.abs().max().item()  # a batch is summed in another order
    assert_close(apart, together, rounding)
    assert torch.equal(denoise(pipe, 2), apart)


@torch.no_grad()
def test_kind_of_output(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    model_input = (torch.ones(1, 4, 8, 8), torch.ones(1, 24, 32))
    for return_dict, kind in ((True, UNet2DConditionOutput), (False, tuple)):
        pipe.scheduler.set_timesteps(STEPS)
        for t in pipe.scheduler.timesteps:
            output = pipe.unet(model_input[0], t, model_input[1], return_dict=return_dict)
            assert type(output) is kind
            assert output[0].dtype is torch.float32
            assert output[0].shape == (1, 4, 8, 8)


@torch.no_grad()
def test_half_precision(tiny_config: TunedConfig, tiny_pair: Path) -> None:
    pipe = load(tiny_pair / "cloud").to(torch.bfloat16)
    edge = load(tiny_pair / "edge")
    apply_ecdiff(pipe, tiny_config, edge=edge)
    with pytest.raises(PairError, match=r"edge model is in torch.float32, the cloud in torch.bfloat16"):
        run(pipe)
    edge.to(torch.bfloat16)
    assert run(pipe).dtype is torch.bfloat16
    assert pipe.ecdiff.calls == {"cloud": 5, "edge": 3}


@torch.no_grad()
def test_timesteps_as_flux_tells_them(tiny_config: TunedConfig, loaded: tuple[T, T]) -> None:
    """Divided by 1000 and in bfloat16, some are one number; the pipeline's own timestep tells them apart."""
    timesteps = torch.linspace(1000, 990, STEPS)
    scheduler = SimpleNamespace(timesteps=timesteps, num_inference_steps=STEPS)
    pipe = SimpleNamespace(scheduler=scheduler)
    tracker = StepTracker(pipe, tiny_config.params, STEPS)
    seen = []
    for t in timesteps:
        pipe._current_timestep = t
        tracker.enter(t.expand(2).to(torch.bfloat16) / 1000)
        seen.append((tracker.step, tracker.branch))
    assert seen == [(step, 0) for step in range(STEPS)]
    pipe._current_timestep = None
    tracker.forget()
    with pytest.raises(ParamsError, match=r"one of the scheduler's 12 timesteps, got 1, which is \d of them"):
        tracker.enter(timesteps[0].to(torch.bfloat16) / 1000)


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
        with pytest.raises(PairError, match="rotary"):
            check_edge(model(False), model(True))


def test_another_number_of_steps(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    with pytest.raises(
        ParamsError, match=r"num_inference_steps=12, .* got 24.*p=6, k=2, s=18, num_inf\w*=24"
    ):
        run(pipe, num_inference_steps=24)
    assert torch.equal(run(pipe), expected)


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_schedulers_that_call_the_model_more_often(
    name: str, tiny_config: TunedConfig, pipe: T, edge: T
) -> None:
    pipe.scheduler = build_scheduler(name, pipe.scheduler)
    apply_ecdiff(pipe, with_sampling(tiny_config, scheduler=name), edge=edge)
    with pytest.raises(ParamsError, match=rf"one timestep a step.*{name}"):
        run(pipe)


def test_another_scheduler(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    pipe.scheduler = build_scheduler("EulerDiscreteScheduler", pipe.scheduler)
    message = r"scheduler to be DDIMScheduler.* got EulerDiscreteScheduler.*check_scheduler=False"
    with pytest.raises(ParamsError, match=message):
        run(pipe)
    with pytest.raises(ParamsError, match=message):
        apply_ecdiff(pipe, tiny_config, edge=edge)
    apply_ecdiff(pipe, tiny_config, edge=edge, check_scheduler=False)
    assert run(pipe).isfinite().all()
    drawing = with_sampling(tiny_config, scheduler="DDPMScheduler")
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ParamsError, match="DDPMScheduler draws fresh noise"):
        apply_ecdiff(pipe, drawing, edge=edge)


def test_guidance_cut_off(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    """While estimates are still to come it is refused; from the edge's steps on it works."""

    def cut(at: int) -> Any:
        def callback(own: T, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == at:
                own._guidance_scale = 0.0
                return {"prompt_embeds": given["prompt_embeds"].chunk(2)[-1]}
            return {}

        return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}

    apply_ecdiff(pipe, tiny_config, edge=edge)
    with pytest.raises(ParamsError, match=r"batch \(1\) or its number of calls changed at step 5"):
        run(pipe, **cut(4))
    assert run(pipe, **cut(9)).isfinite().all()


def test_not_from_the_first_timestep(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    apply_ecdiff(pipe, tiny_config, edge=edge)
    pipe.scheduler.set_timesteps(STEPS)
    with pytest.raises(ParamsError, match="Expected step 0 of the generation, got step 4"):
        pipe.unet(torch.ones(1, 4, 8, 8), pipe.scheduler.timesteps[4], torch.ones(1, 24, 32))
    with pytest.raises(ParamsError, match=r"one of the scheduler's 12 timesteps, got 3\.5"):
        pipe.unet(torch.ones(1, 4, 8, 8), 3.5, torch.ones(1, 24, 32))


def test_pairs_that_cannot_be_used(tiny_config: TunedConfig, pipe: T, edge: T) -> None:
    three = UNet2DConditionModel(
        sample_size=8, in_channels=3, block_out_channels=(8, 8), norm_num_groups=8, attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    for given, message in (
        (None, r"edge steps \(12 steps = .*give apply_ecdiff an edge model"),
        (pipe, "own denoiser"),
        (pipe.unet, "own denoiser"),
        ("edge", "str has neither unet nor transformer"),
        (three, "in_channels is 3, the cloud's 4"),
    ):
        with pytest.raises(PairError, match=message):
            apply_ecdiff(pipe, tiny_config, edge=given)
    apply_ecdiff(edge, with_params(tiny_config, *PLANS["cloud"][:4]))
    with pytest.raises(PairError, match="remove_ecdiff"):
        apply_ecdiff(pipe, tiny_config, edge=edge)
    remove_ecdiff(edge)
    with pytest.raises(ConfigError, match="matched"):
        apply_ecdiff(pipe, with_sampling(tiny_config, handoff_adapter="matched"), edge=edge)
    with pytest.raises(PairError, match="takes no timestep"):
        apply_ecdiff(SimpleNamespace(unet=torch.nn.Linear(1, 1)), tiny_config, edge=edge)
    with pytest.raises(PairError, match="two denoisers"):
        apply_ecdiff(SimpleNamespace(transformer=pipe.unet, transformer_2=pipe.unet), tiny_config, edge=edge)
    assert not hasattr(pipe, "ecdiff")
