"""Model families: what the sampler needs of a diffusers pipeline, one adapter a family."""

from __future__ import annotations

from ecdiff_core.families.base import Family
from ecdiff_core.families.cogvideox import CogVideoX
from ecdiff_core.families.stable_diffusion import StableDiffusion

FAMILIES: dict[str, type[Family]] = {
    "CogVideoXPipeline": CogVideoX,
    "StableDiffusionPipeline": StableDiffusion,
}
"""By the diffusers pipeline class that a model's model_index.json names."""

__all__ = ["FAMILIES", "Family"]
