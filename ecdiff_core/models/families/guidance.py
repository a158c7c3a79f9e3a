"""Guidance: classifier-free, or by the scale as an input of the model.

U-Nets that were distilled for the latter (LCM; arXiv 2310.04378) have ``time_cond_proj_dim`` in their config,
the width of the scale's embedding. One call with the prompt answers with the guided noise; none is made
without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a generation.

    Args:
        scale: 1 or less is none.
        dynamic_steps: None for the same scale at every step; else num_inference_steps, and the scale varies
            with the timestep t as 1 + scale (1 - cos(pi ((steps - t) / steps)^5)) / 2, as diffusers'
            CogVideoX pipelines do for ``use_dynamic_cfg``.
    """

    scale: float
    dynamic_steps: int | None = None

    def at(self, timestep: Tensor) -> float | Tensor:
        """The scale at a timestep; where it varies and they are one a sample, a tensor of shape (batch,)."""
        if self.dynamic_steps is None:
            return self.scale
        if timestep.ndim:
            return torch.tensor([float(self.at(one)) for one in timestep], device=timestep.device)
        left = (self.dynamic_steps - float(timestep)) / self.dynamic_steps
        return 1 + self.scale * (1 - math.cos(math.pi * left**5)) / 2


def both_halves(timestep: Tensor) -> Tensor:
    """The timesteps of a batch that holds its samples twice; one for all of them stays one."""
    return torch.cat([timestep, timestep]) if timestep.ndim else timestep


def guide(output: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Classifier-free guidance over a batch whose first half is without, its second half with the prompt.

    Args:
        guidance_scale: one, or one a sample, shape (batch / 2,).
    """
    unconditional, text = output.chunk(2)
    if isinstance(guidance_scale, Tensor):
        guidance_scale = guidance_scale.to(output).reshape(-1, *[1] * (output.ndim - 1))
    return unconditional + guidance_scale * (text - unconditional)


def embedding_width(model: nn.Module) -> int | None:
    """How wide a model wants the guidance scale's embedding; None for one that does not take the scale."""
    width: int | None = getattr(model, "config", {}).get("time_cond_proj_dim")
    return width


def is_guided(model: nn.Module, scale: float) -> bool:
    """Whether a model is called with and without the prompt (classifier-free guidance) at a scale."""
    return scale > 1 and embedding_width(model) is None


def embed_scale(scale: float, width: int, latents: Tensor) -> Tensor:
    """diffusers' embedding of a guidance scale, ``timestep_cond`` of a call: shape (batch, width).

    Args:
        latents: of the call; their batch, dtype and device are taken.
    """
    # The method of SD and SDXL; it reads nothing of its pipeline.
    embed = StableDiffusionPipeline.get_guidance_scale_embedding
    embedding: Tensor = embed(None, torch.tensor(scale - 1).repeat(len(latents)), embedding_dim=width)
    return embedding.to(latents)
