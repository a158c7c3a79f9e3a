"""What the tests of ``apply_ecdiff`` share: pipelines to hook, generations to compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from ecdiff_core import ECDiffParams, TunedConfig
from ecdiff_core.sampling.schedulers import build_scheduler

from .loading import copied

PROMPT = "a large red circle left of a small blue star, on a dark plain background"
STEPS = 12
CLASSES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
PLANS = {
    "tuned": (3, 2, 0.3, 9, "aligned"),
    "exact": (3, 3, 0.4, 9, "exact"),
    "hybrid": (0, 0, 1.0, 5, "aligned"),
    "cloud": (0, 0, 1.0, STEPS, "aligned"),
    "edge": (0, 0, 1.0, 0, "aligned"),
    "no edge": (2, 1, 0.5, STEPS, "aligned"),
}
"""p, k, alpha, s and the handoff."""
CALLS = {"cloud": 5, "edge": 3}
"""Of the plan ``tuned``, where the models are called once a step."""
Pipe = Any  # a diffusers pipeline: diffusers is untyped


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_sampling(config: TunedConfig, **changes: Any) -> TunedConfig:
    return replace(config, sampling=replace(config.sampling, **changes))


def with_plan(config: TunedConfig, name: str) -> TunedConfig:
    p, k, alpha, s, handoff = PLANS[name]
    return with_sampling(replace(config, params=ECDiffParams(p=p, k=k, alpha=alpha, s=s)), handoff=handoff)


def load(folder: Path, scheduler: str = "DDIMScheduler", kind: str = "sd") -> Pipe:
    extra = {"safety_checker": None, "requires_safety_checker": False} if kind == "sd" else {}
    pipe = copied(lambda: CLASSES[kind].from_pretrained(folder, **extra), [folder], kind)
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Pipe, prompt: str | list[str] = PROMPT, seed: int = 0, **settings: Any) -> Tensor:
    """Latents, of an image pipeline as of a video pipeline."""
    given = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **settings}
    output: Tensor = pipe(prompt, generator=seeded(seed), output_type="latent", **given)[0]
    return output


def assert_close(one: Tensor, other: Tensor, tolerance: float | None = None) -> None:
    """By default 1e-5 and float32's rounding of numbers as great as these, as torch.testing.assert_close.

    Where a process happens to put a model's weights, sums of the same numbers round otherwise: the same call
    of two copies of a model differs by up to 1e-5 where latents are near 17.
    """
    if tolerance is None:
        tolerance = 1e-5 + 1.3e-6 * float(other.abs().max())
    assert one.shape == other.shape
    assert one.std() > 0.1
    assert (one - other).abs().max() <= tolerance


def rounding(like: Tensor) -> float:
    """1e-5 of the greatest: a batch, offloaded or merged weights are summed in another order."""
    return 1e-5 * max(1.0, like.abs().max().item())


@contextmanager
def counted(**layers: nn.Module) -> Iterator[dict[str, int]]:
    """How often models really compute, seen from inside: by a layer of each."""
    calls = dict.fromkeys(layers, 0)

    def count(name: str) -> Any:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def denoise(pipe: Pipe, branches: int, seed: int = 0, **arguments: Any) -> Tensor:
    """A loop as pipelines make it: the U-Net once a step for both branches, or (Flux, Wan) for each."""
    pipe.scheduler.set_timesteps(STEPS)
    text = torch.randn(2, 24, 32, generator=seeded(5))
    latents = torch.randn(1, 4, 8, 8, generator=seeded(seed))
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
