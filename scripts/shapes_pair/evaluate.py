"""What scripts/eval_shapes_pair.py measures of the embedded pair, on two loaded pipelines.

Pictures are RGB in 0 … 1, float32, shape (n, 64, 64, 3). Every denoising runs one DDIM scheduler, which keeps
no state between steps, so that a trajectory can go on with another model from any step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from ecdiff_core.shapes.grammar import Scene
from shapes_pair.read import read

Pictures = NDArray[np.float32]

HYBRID_EDGE_STEPS = (10, 25)
"""Edge steps at the end of the HybridSD runs, ascending."""


def load(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """The pipeline as diffusers loads it, in float32 whatever is on disk."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    if not isinstance(pipe.scheduler, DDIMScheduler):
        raise TypeError(f"Expected a DDIMScheduler in {folder}, got {type(pipe.scheduler).__name__}.")
    return pipe


@dataclass(frozen=True)
class Sampling:
    """How pictures are generated; prompt i starts from noise of a CPU generator with seed ``seed + i``."""

    steps: int
    guidance_scale: float
    batch: int
    seed: int = 0


@torch.inference_mode()
def generate(
    cloud: StableDiffusionPipeline, edge: StableDiffusionPipeline, captions: Sequence[str], sampling: Sampling
) -> dict[str, Pictures]:
    """Pictures by "cloud", "edge" and "hybrid_N" (the cloud, then the edge for the last N steps)."""
    parts: dict[str, list[Pictures]] = {}
    for start in tqdm(range(0, len(captions), sampling.batch), desc="generate", mininterval=5):
        prompts = list(captions[start : start + sampling.batch])
        seeds = range(sampling.seed + start, sampling.seed + start + len(prompts))
        for name, latents in _final_latents(cloud, edge, prompts, seeds, sampling).items():
            parts.setdefault(name, []).append(decode(cloud.vae, latents))
    return {name: np.concatenate(parts[name]) for name in sorted(parts)}


def _final_latents(
    cloud: StableDiffusionPipeline,
    edge: StableDiffusionPipeline,
    prompts: list[str],
    seeds: Sequence[int],
    sampling: Sampling,
) -> dict[str, Tensor]:
    scheduler, guidance = cloud.scheduler, sampling.guidance_scale
    scheduler.set_timesteps(sampling.steps, device=cloud.device)
    timesteps = scheduler.timesteps
    size = cloud.unet.config.sample_size
    shape = (1, cloud.unet.config.in_channels, size, size)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    start = torch.cat(noise).to(cloud.device) * scheduler.init_noise_sigma

    own = _encode(edge, prompts)
    shared = _encode(cloud, prompts)
    found = {"edge": denoise(edge.unet, scheduler, own, start, timesteps, guidance)}
    # The cloud's trajectory is walked once; each HybridSD run leaves it where the edge takes over.
    latents, done = start, 0
    for edge_steps in sorted(HYBRID_EDGE_STEPS, reverse=True):
        handoff = sampling.steps - edge_steps
        latents = denoise(cloud.unet, scheduler, shared, latents, timesteps[done:handoff], guidance)
        done = handoff
        refined = denoise(edge.unet, scheduler, shared, latents, timesteps[handoff:], guidance)
        found[f"hybrid_{edge_steps}"] = refined
    found["cloud"] = denoise(cloud.unet, scheduler, shared, latents, timesteps[done:], guidance)
    return found


def _encode(pipe: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    """Embeddings without, then with the prompts, shape (2n, tokens, width)."""
    prompted, empty = pipe.encode_prompt(prompts, pipe.device, 1, True)
    return torch.cat([empty, prompted])


def denoise(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    embeddings: Tensor,
    latents: Tensor,
    timesteps: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Latents (n, 4, 16, 16) after some of the scheduler's timesteps, with classifier-free guidance."""
    for timestep in timesteps:
        doubled = torch.cat([latents, latents])
        empty, prompted = unet(doubled, timestep, encoder_hidden_states=embeddings).sample.chunk(2)
        noise = empty + guidance_scale * (prompted - empty)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents


def _to_pictures(images: Tensor) -> Pictures:
    """Images (n, 3, 64, 64) in -1 … 1 as pictures."""
    return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def decode(vae: AutoencoderKL, latents: Tensor) -> Pictures:
    """Pictures of scaled latents."""
    return _to_pictures(vae.decode(latents / vae.config.scaling_factor).sample)


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, pictures: Pictures, batch: int) -> Pictures:
    """The pictures after encoding (the mean of the latents) and decoding."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(vae.device) * 2 - 1
    done = [_to_pictures(vae.decode(vae.encode(b).latent_dist.mean).sample) for b in images.split(batch)]
    return np.concatenate(done)


def psnr(pictures: Pictures, reference: Pictures) -> NDArray[np.floating]:
    """PSNR in dB of every picture, shape (n,)."""
    error = np.square(pictures.astype(np.float64) - reference).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, 1e-12))


def ssim(pictures: Pictures, reference: Pictures) -> NDArray[np.floating]:
    """SSIM of every picture, shape (n,)."""
    mine, theirs = (torch.from_numpy(p).permute(0, 3, 1, 2) for p in (pictures, reference))
    values = structural_similarity_index_measure(mine, theirs, data_range=1.0, reduction="none")
    return np.asarray(values)


def shares_right(pictures: Pictures, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares in 0 … 1 of objects, backgrounds and whole scenes that are right in the pictures."""
    readings = [read(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    objects = [o for reading in readings for o in reading.objects]
    return {
        "objects": statistics.fmean(o.color_right for o in objects),
        "shapes": statistics.fmean(o.shape_right for o in objects),
        "sizes": statistics.fmean(o.size_right for o in objects),
        "objects_strict": statistics.fmean(o.strictly_right for o in objects),
        "tones": statistics.fmean(r.tone_right for r in readings),
        "patterns": statistics.fmean(r.pattern_right for r in readings),
        "backgrounds": statistics.fmean(r.background_right for r in readings),
        "scenes_strict": statistics.fmean(r.strictly_right for r in readings),
    }


@torch.inference_mode()
def call_seconds(pipes: Sequence[StableDiffusionPipeline], repeats: int = 30) -> list[float]:
    """Median seconds of one call of every pipeline's UNet, for one picture with guidance (a batch of 2).

    Calls are interleaved, so that whatever else the machine does slows all of them alike.
    """
    seconds: list[list[float]] = [[] for _ in pipes]
    for repeat in range(repeats + 5):
        for pipe, kept in zip(pipes, seconds, strict=True):
            config = pipe.unet.config
            latents = torch.zeros(
                2, config.in_channels, config.sample_size, config.sample_size, device=pipe.device
            )
            text = torch.zeros(
                2, pipe.tokenizer.model_max_length, config.cross_attention_dim, device=pipe.device
            )
            _synchronize(pipe.device)
            started = time.perf_counter()
            pipe.unet(latents, 500, encoder_hidden_states=text)
            _synchronize(pipe.device)
            if repeat >= 5:  # the first ones warm up
                kept.append(time.perf_counter() - started)
    return [statistics.median(kept) for kept in seconds]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
