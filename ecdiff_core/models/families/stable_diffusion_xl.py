"""Stable Diffusion XL, and every U-Net pair that keeps its pipeline (SSD-1B, Segmind-Vega)."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from ecdiff_core.models.families.family import Prompts, Size
from ecdiff_core.models.families.image import OF_ONE_SIZE, OTHER_CONDITIONS, OWN_GUIDANCE, ImageFamily
from ecdiff_core.sampling.batching import Conditioning


class StableDiffusionXL(ImageFamily):
    """Adapter over ``StableDiffusionXLPipeline``: two text encoders, pooled embeddings, size as a condition.

    Without negative prompts the unconditional half is zeros where ``force_zeros_for_empty_prompt`` of the
    model says so, as in diffusers; an empty negative prompt is encoded. Images carry no watermark.
    """

    pipeline_class = StableDiffusionXLPipeline
    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder", "text_encoder_2")
    unweighted_parts = ("tokenizer", "tokenizer_2", "scheduler")
    must_agree: ClassVar = {
        "latent channels": (("in_channels", "out_channels"), "the edge cannot take the cloud's latents"),
        "embedding width": (("cross_attention_dim",), "the edge cannot take the cloud's embeddings"),
        "pooled embeddings and time ids": (
            ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
            "the edge cannot take the cloud's pooled embeddings",
        ),
        "other conditions": OTHER_CONDITIONS,
    }
    may_differ: ClassVar = {
        "trained size": (("sample_size",), OF_ONE_SIZE),
        "guidance as an embedding": OWN_GUIDANCE,
    }
    left_out_parts = ("image_encoder", "feature_extractor")

    @torch.no_grad()
    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        pipeline, guided = self.pipeline, guidance_scale > 1
        embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
            list(prompts),
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=list(negative_prompts) if guided and negative_prompts else None,
        )
        if guided:
            embeds, pooled = torch.cat([negative, embeds]), torch.cat([negative_pooled, pooled])
        pixels = (size.height, size.width)
        time_ids = pipeline._get_add_time_ids(
            pixels,
            (0, 0),
            pixels,
            dtype=embeds.dtype,
            text_encoder_projection_dim=pipeline.text_encoder_2.config.projection_dim,
        )
        tensors = {
            "encoder_hidden_states": embeds,
            "text_embeds": pooled,
            "time_ids": time_ids.to(self.device).repeat(len(embeds), 1),
        }
        return Conditioning(tensors, len(prompts))

    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        config, ids = self.denoiser_config, 6
        pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
        return {
            "encoder_hidden_states": (self.read_tokens("tokenizer"), config.cross_attention_dim),
            "text_embeds": (pooled,),
            "time_ids": (ids,),
        }

    def call(self, model: nn.Module, latents: Tensor, timestep: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        added = {name: tensors[name] for name in ("text_embeds", "time_ids")}
        return model(
            latents,
            timestep,
            tensors["encoder_hidden_states"],
            timestep_cond=tensors.get("timestep_cond"),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def unscale(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return super().unscale(latents)
        mean = latents.new_tensor(config.latents_mean).view(1, -1, 1, 1)
        std = latents.new_tensor(config.latents_std).view(1, -1, 1, 1)
        return latents * std / config.scaling_factor + mean

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        if vae.dtype is not torch.float16 or not vae.config.force_upcast:
            return super().decode(latents)
        vae.to(torch.float32)  # SDXL's own autoencoder overflows in half precision
        try:
            return super().decode(latents)
        finally:
            vae.to(torch.float16)
