"""Model families: what the sampler needs of a diffusers pipeline, one adapter a family."""

from __future__ import annotations

from ecdiff_core.models.families.cogvideox import CogVideoX
from ecdiff_core.models.families.family import Family
from ecdiff_core.models.families.stable_diffusion import StableDiffusion
from ecdiff_core.models.families.stable_diffusion_3 import StableDiffusion3
from ecdiff_core.models.families.stable_diffusion_xl import StableDiffusionXL

FAMILIES: dict[str, type[Family]] = {
    "CogVideoXPipeline": CogVideoX,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}
"""By the diffusers pipeline class that a model's model_index.json names."""

__all__ = ["FAMILIES", "Family"]
