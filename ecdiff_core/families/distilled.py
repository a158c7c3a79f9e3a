"""U-Nets that were distilled to take the guidance scale as an input (LCM; arXiv 2310.04378, section 4.2).

Their config has ``time_cond_proj_dim``, the width of the scale's embedding. One call with the prompt answers
with the guided noise, so that there is no call without it.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn


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
