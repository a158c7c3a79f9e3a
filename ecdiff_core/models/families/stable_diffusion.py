"""Stable Diffusion 1 and 2, and every U-Net pair that keeps its pipeline (BK-SDM, the embedded pair)."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from ecdiff_core.models.families.family import Prompts, Size
from ecdiff_core.models.families.image import OF_ONE_SIZE, OTHER_CONDITIONS, OWN_GUIDANCE, ImageFamily
from ecdiff_core.sampling.batching import Conditioning


class StableDiffusion(ImageFamily):
    """Adapter over ``StableDiffusionPipeline``; text, latents and decoding stay diffusers' own."""

    pipeline_class = StableDiffusionPipeline
    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder",)
    unweighted_parts = ("tokenizer", "scheduler")
    must_agree: ClassVar = {
        "latent channels": (("in_channels", "out_channels"), "the edge cannot take the cloud's latents"),
        "embedding width": (("cross_attention_dim",), "the edge cannot take the cloud's embeddings"),
        "pooled embeddings": (("addition_embed_type",), "only one of the two is given any"),
        "other conditions": OTHER_CONDITIONS,
    }
    may_differ: ClassVar = {
        "trained size": (("sample_size",), OF_ONE_SIZE),
        "guidance as an embedding": OWN_GUIDANCE,
    }
    left_out_parts = ("safety_checker", "feature_extractor", "image_encoder")

    @torch.no_grad()
    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        guided = guidance_scale > 1
        positive, negative = self.pipeline.encode_prompt(
            list(prompts),
            self.device,
            1,
            guided,
            negative_prompt=list(negative_prompts) if guided and negative_prompts else None,
        )
        embeds = torch.cat([negative, positive]) if guided else positive
        return Conditioning({"encoder_hidden_states": embeds}, len(prompts))

    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.denoiser_config.cross_attention_dim
        return {"encoder_hidden_states": (self.read_tokens("tokenizer"), width)}

    def call(self, model: nn.Module, latents: Tensor, timestep: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return model(latents, timestep, **tensors, return_dict=False)[0]
