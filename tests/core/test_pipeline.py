"""Inference: equal to diffusers where it must be, called as diffusers is, with clear errors."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from ecdiff_core import ECDiffOutput, ECDiffParams, ECDiffPipeline, TunedConfig
from ecdiff_core.errors import NonFiniteLatentsError, PairError, ParamsError
from ecdiff_core.sampling.plan import Action
from ecdiff_core.sampling.schedulers import build_scheduler

from ..hooking import assert_close
from ..refusals import refused

PROMPT = "a large red circle left of a small blue star, on a dark plain background"
PROMPTS = [PROMPT, "a small green ring", "two words"]
SCHEDULERS = [
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_sampling(config: TunedConfig, **changes: object) -> TunedConfig:
    return replace(config, sampling=replace(config.sampling, **changes))


def load(config: TunedConfig) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(config, device="cpu")


@pytest.fixture(scope="module")
def pipe(tiny_config: TunedConfig) -> ECDiffPipeline:
    """Shared: a pipeline keeps nothing from call to call."""
    return load(tiny_config)


@cache
def own_parts(folder: Path) -> dict[str, Any]:
    """Of diffusers' own pipeline."""
    own = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    return own.components


def from_diffusers(
    folder: Path,
    config: TunedConfig,
    prompt: str | list[str],
    generator: torch.Generator | list[torch.Generator],
    negative_prompt: str | list[str] | None = None,
) -> tuple[Tensor, list[Image]]:
    """Latents and images of diffusers' own pipeline with the settings of a config."""
    parts = own_parts(folder)
    scheduler = build_scheduler(config.sampling.scheduler, parts["scheduler"])
    own = StableDiffusionPipeline(**{**parts, "scheduler": scheduler}, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    latents = own(
        prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=config.sampling.num_inference_steps,
        guidance_scale=config.sampling.guidance_scale,
        height=config.sampling.height,
        width=config.sampling.width,
        generator=generator,
        output_type="latent",
    ).images
    with torch.no_grad():
        decoded = own.vae.decode(latents / own.vae.config.scaling_factor).sample
    return latents, own.image_processor.postprocess(decoded)


def assert_same_images(ours: list[Image], theirs: list[Image]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_cloud_only_equals_diffusers(
    tiny_pair: Path, tiny_config: TunedConfig, scheduler: str, guidance_scale: float
) -> None:
    config = with_sampling(tiny_config, scheduler=scheduler, guidance_scale=guidance_scale)
    steps = 13 if scheduler == "PNDMScheduler" else 12
    config = replace(config, params=ECDiffParams.cloud_only(steps))
    output = load(config)(PROMPT, generator=seeded())
    latents, images = from_diffusers(tiny_pair / "cloud", config, PROMPT, seeded())
    assert output.plan.schedule == f"{steps}C"
    assert_close(output.latents, latents)
    assert_same_images(output.images, images)


def test_equals_diffusers_with_negative_prompts_a_batch_and_another_size(
    tiny_pair: Path, tiny_config: TunedConfig
) -> None:
    config = with_sampling(tiny_config, height=64, width=48)
    negatives = ["a dark background", "", "blue"]
    output = load(config)(PROMPTS, negative_prompt=negatives, generator=seeded(), mode="cloud")
    latents, images = from_diffusers(tiny_pair / "cloud", config, PROMPTS, seeded(), negatives)
    assert [image.size for image in output.images] == [(48, 64)] * 3
    assert_close(output.latents, latents)
    assert_same_images(output.images, images)


def test_edge_only_equals_diffusers_with_the_edge_model(
    tiny_pair: Path, tiny_config: TunedConfig, pipe: ECDiffPipeline
) -> None:
    output = pipe(PROMPT, generator=seeded(), mode="edge")
    latents, images = from_diffusers(tiny_pair / "edge", tiny_config, PROMPT, seeded())
    assert_close(output.latents, latents)
    assert_same_images(output.images, images)


def test_modes(pipe: ECDiffPipeline) -> None:
    schedules = {"ecdiff": "3C2A1C2A1C3E", "hybrid": "9C3E", "cloud": "12C", "edge": "12E"}
    outputs = {mode: pipe(PROMPT, generator=seeded(), mode=mode) for mode in schedules}
    assert {mode: output.plan.schedule for mode, output in outputs.items()} == schedules
    assert {mode: pipe.plan(mode).schedule for mode in schedules} == schedules
    for one, other in itertools.combinations(outputs.values(), 2):
        assert (one.latents - other.latents).abs().max() > 1e-3
    assert torch.equal(pipe(PROMPT, generator=seeded()).latents, outputs["ecdiff"].latents)


@pytest.mark.parametrize("mode", ["ecdiff", "hybrid", "cloud", "edge"])
def test_calls_the_models_as_planned(pipe: ECDiffPipeline, mode: str) -> None:
    calls: list[str] = []
    hooks = [
        model.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, model in (("C", pipe.pair.cloud), ("E", pipe.pair.edge))
    ]
    seen: list[tuple[int, Action]] = []
    try:
        output = pipe(PROMPT, generator=seeded(), mode=mode, on_step=lambda *step: seen.append(step[:2]))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == list(enumerate(output.plan.steps))
    assert calls == [action.value for action in output.plan.steps if action is not Action.APPROX]


def test_a_list_equals_one_by_one(pipe: ECDiffPipeline) -> None:
    together = pipe(PROMPTS, generator=[seeded(i) for i in range(3)])
    assert together.latents.shape == (3, 4, 8, 8)
    assert [image.size for image in together.images] == [(32, 32)] * 3
    rounding = 1e-5 * together.latents.abs().max()  # a batch is summed in another order
    for i, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, generator=seeded(i))
        assert (alone.latents[0] - together.latents[i]).abs().max() <= rounding
        pixels = [np.asarray(image).astype(int) for image in (alone.images[0], together.images[i])]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_seed_and_prompt_matter_and_nothing_is_kept(pipe: ECDiffPipeline) -> None:
    first = pipe(PROMPT, generator=seeded()).latents
    assert (pipe(PROMPT, generator=seeded(1)).latents - first).abs().max() > 0.1
    assert (pipe(PROMPTS[1], generator=seeded()).latents - first).abs().max() > 1e-3
    assert torch.equal(pipe(PROMPT, generator=seeded()).latents, first)


def test_alpha_and_estimator_matter(tiny_config: TunedConfig, pipe: ECDiffPipeline) -> None:
    tuned = pipe(PROMPT, generator=seeded()).latents
    other_alpha = replace(tiny_config, params=replace(tiny_config.params, alpha=0.9))
    for config in (other_alpha, with_sampling(tiny_config, estimator="reuse")):
        assert (load(config)(PROMPT, generator=seeded()).latents - tuned).abs().max() > 1e-3


def test_negative_prompts(tiny_config: TunedConfig, pipe: ECDiffPipeline) -> None:
    def run(pipe: ECDiffPipeline, negative: str | list[str] | None) -> Tensor:
        generators = [seeded(0), seeded(1)]
        return pipe(PROMPTS[:2], negative_prompt=negative, generator=generators).latents

    bare, one_for_all = run(pipe, None), run(pipe, "a blue star")
    assert (one_for_all - bare).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert torch.equal(run(pipe, ["a blue star", "a blue star"]), one_for_all)
    assert torch.equal(run(pipe, ["", ""]), bare)
    mixed = run(pipe, ["", "a blue star"])
    assert_close(mixed[0], bare[0])
    assert_close(mixed[1], one_for_all[1])
    unguided = load(with_sampling(tiny_config, guidance_scale=1.0))
    assert torch.equal(run(unguided, "a blue star"), run(unguided, None))


def test_seconds(pipe: ECDiffPipeline) -> None:
    seconds = pipe(PROMPT, generator=seeded()).seconds
    parts = (seconds.encode, seconds.cloud, seconds.edge, seconds.decode)
    assert min(parts) >= 0
    assert seconds.total == pytest.approx(sum(parts))
    assert pipe(PROMPT, generator=seeded(), mode="edge").seconds.cloud < seconds.cloud
    assert pipe(PROMPT, generator=seeded(), mode="cloud").seconds.edge < seconds.edge


@pytest.mark.parametrize("as_path", [Path, str])
def test_loads_from_a_file(
    tiny_config: TunedConfig, pipe: ECDiffPipeline, tmp_path: Path, as_path: Callable[[Path], Path | str]
) -> None:
    tiny_config.save(tmp_path / "ecdiff.yaml")
    loaded = ECDiffPipeline.from_config(as_path(tmp_path / "ecdiff.yaml"), device="cpu")
    assert (loaded.config.params, loaded.config.sampling) == (tiny_config.params, tiny_config.sampling)
    assert loaded.config.pair == pipe.pair.spec
    assert torch.equal(loaded(PROMPT, generator=seeded()).latents, pipe(PROMPT, generator=seeded()).latents)


def test_another_dtype(tiny_config: TunedConfig, pipe: ECDiffPipeline) -> None:
    half = ECDiffPipeline.from_config(tiny_config, device="cpu", dtype="bfloat16")
    assert half.config.sampling.dtype == "bfloat16"
    assert {p.dtype for model in (half.pair.cloud, half.pair.edge) for p in model.parameters()} == {
        torch.bfloat16
    }
    output: ECDiffOutput = half(PROMPT, generator=seeded())
    assert output.latents.dtype is torch.bfloat16
    error = output.latents.float() - pipe(PROMPT, generator=seeded()).latents
    assert 0 < error.square().mean().sqrt() < 0.5


SIZES = {
    "key": "height and width",
    "expected": "to be multiples of 4 pixels",
    "advice": "The model was trained for 32x32.",
}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"height": 18}, SIZES | {"got": {"height": 18, "width": 32}}),
        ({"width": 2}, SIZES | {"got": {"height": 32, "width": 2}}),
        ({"height": -32}, SIZES | {"got": {"height": -32, "width": 32}}),
        ({"height": 0}, SIZES | {"got": {"height": 0, "width": 32}}),
        ({"scheduler": "HeunDiscreteScheduler"}, {"line": r"one timestep a step.*HeunDiscreteScheduler"}),
        (
            {"scheduler": "EulerAncestralDiscreteScheduler"},
            {"line": r"EulerAncestralDiscreteScheduler draws fresh noise"},
        ),
        ({"scheduler": "DDIMSheduler"}, {"line": r"no scheduler 'DDIMSheduler'.*mean DDIM\w*Scheduler\?"}),
        ({"num_inference_steps": 1001}, {"line": "1001"}),
        (
            {"use_dynamic_cfg": True},
            {"line": "has no use_dynamic_cfg: set it to false"},
        ),
    ],
)
def test_settings_that_the_models_cannot_do(
    tiny_config: TunedConfig, changes: dict[str, object], refusal: dict[str, object]
) -> None:
    with refused(ParamsError, **refusal):
        load(with_sampling(tiny_config, **changes))(PROMPT, generator=seeded())


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"prompt": []}, {"line": "at least one prompt"}),
        ({"prompt": [3]}, {"line": "a prompt or a list"}),
        ({"prompt": None}, {"line": "a prompt or a list"}),
        ({"negative_prompt": ["a", "b"]}, {"key": "negative_prompt", "got": 2, "expected": "one or 3"}),
        ({"generator": [torch.Generator()]}, {"key": "generator", "got": 1, "expected": "one or 3"}),
        ({"mode": "hybird"}, {"key": "mode", "got": "hybird", "nearest": "hybrid"}),
    ],
)
def test_wrong_calls(pipe: ECDiffPipeline, arguments: dict[str, object], refusal: dict[str, object]) -> None:
    with refused(ParamsError, **refusal):
        pipe(**{"prompt": PROMPTS, **arguments})  # type: ignore[arg-type]


def test_unknown_device(tiny_config: TunedConfig) -> None:
    for device in ("cuda:99", "gpu"):
        with refused(ParamsError, key="device", got=device):
            ECDiffPipeline.from_config(tiny_config, device=device)
    with refused(ParamsError, key="dtype", got="float61", nearest="float16"):
        ECDiffPipeline.from_config(tiny_config, dtype="float61")


@pytest.mark.parametrize("part", ["cloud", "edge", "decoder"])
def test_images_that_are_not_finite(tiny_config: TunedConfig, part: str) -> None:
    broken = load(tiny_config)
    module = broken.pair.family.pipeline.vae.decoder if part == "decoder" else getattr(broken.pair, part)
    next(module.parameters()).data.fill_(float("nan"))
    with refused(NonFiniteLatentsError, key="dtype", got="float32"):
        broken(PROMPT, generator=seeded())


@pytest.mark.parametrize(("side", "part"), [("cloud", "unet"), ("cloud", "vae"), ("edge", "unet")])
def test_other_weights_than_tuned_for(
    tiny_pair: Path, pipe: ECDiffPipeline, tmp_path: Path, side: str, part: str
) -> None:
    shutil.copytree(tiny_pair, tmp_path / "pair")
    spec = pipe.pair.spec
    moved = replace(
        spec,
        cloud=replace(spec.cloud, id=str(tmp_path / "pair" / "cloud")),
        edge=replace(spec.edge, id=str(tmp_path / "pair" / "edge")),
    )
    config = replace(pipe.config, pair=moved)
    assert load(config).pair.spec == moved  # the fingerprint is of the weights, not of the place

    path = next((tmp_path / "pair" / side / part).glob("*.safetensors"))
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    tuned_for = getattr(spec, side).fingerprint
    with refused(PairError, key=f"{side}.fingerprint", expected=tuned_for):
        load(config)
    unchecked = ECDiffPipeline.from_config(config, device="cpu", check_weights=False)
    assert getattr(unchecked.pair.spec, side).fingerprint != tuned_for
    assert unchecked(PROMPT, generator=seeded()).images
