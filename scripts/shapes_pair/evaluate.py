"""What the evaluations of the embedded pairs measure.

Images are RGB in 0 … 1, float32, shape (n, 3, 64, 64); clips have shape (n, frames, 3, 64, 64).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.shapes.grammar import Scene
from shapes_pair.read import read


def load(cloud: Path, edge: Path, sampling: Sampling, device: str) -> ECDiffPipeline:
    """The pair of two diffusers folders, in the dtype of ``sampling`` whatever is on disk."""
    pair = PairSpec("shapes", ModelRef(str(cloud)), ModelRef(str(edge)))
    config = TunedConfig(pair, ECDiffParams.cloud_only(sampling.num_steps), sampling)
    return ECDiffPipeline.from_config(config, device=device)


def runs(steps: int, edge_steps: Sequence[int]) -> dict[str, ECDiffParams]:
    """Params by "cloud", "edge" and "hybrid_N" (the cloud, then the edge for the last N steps)."""
    hybrids = {f"hybrid_{n}": ECDiffParams.hybrid(steps - n) for n in edge_steps}
    return {"cloud": ECDiffParams.cloud_only(steps), "edge": ECDiffParams.edge_only(), **hybrids}


def generate(
    pipe: ECDiffPipeline, params: ECDiffParams, captions: Sequence[str], batch: int, seed: int
) -> Tensor:
    """Images or clips of the captions.

    Caption i starts from noise of a CPU generator with seed ``seed + i``.
    """
    planned = ECDiffPipeline(pipe.pair, replace(pipe.config, params=params))
    parts = []
    for start in tqdm(range(0, len(captions), batch), mininterval=5):
        prompts = list(captions[start : start + batch])
        seeds = range(seed + start, seed + start + len(prompts))
        latents = planned(prompts, generator=[torch.Generator().manual_seed(s) for s in seeds]).latents
        parts.append(pipe.pair.family.decode(latents).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def reconstruct(pipe: ECDiffPipeline, images: Tensor, batch: int) -> Tensor:
    """The images after encoding (the mean of the latents) and decoding."""
    family = pipe.pair.family
    vae = family.pipeline.vae
    parts = []
    for some in (images * 2 - 1).split(batch):
        mean = vae.encode(some.to(pipe.device)).latent_dist.mean
        latents = (mean - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        parts.append(family.decode(latents).cpu())
    return torch.cat(parts)


def shares_right(images: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares in 0 … 1 of objects, backgrounds and whole scenes that are right in the images."""
    readings = [
        read(image.permute(1, 2, 0).numpy(), scene) for image, scene in zip(images, scenes, strict=True)
    ]
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


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
