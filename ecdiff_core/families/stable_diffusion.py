"""Stable Diffusion 1 and 2, and every U-Net pair that keeps its pipeline (BK-SDM, the embedded pair)."""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from PIL.Image import Image
from torch import Tensor, nn

from ecdiff_core.errors import ParamsError
from ecdiff_core.families.base import (
    Conditioning,
    Family,
    Generators,
    Prompts,
    Size,
    guide,
    rescaled_noise,
)
from ecdiff_core.sampler import Denoiser


class StableDiffusion(Family):
    """Adapter over ``StableDiffusionPipeline``; text, latents and decoding stay diffusers' own."""

    pipeline_class = StableDiffusionPipeline
    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder",)
    unweighted_parts = ("tokenizer", "scheduler")
    must_agree: ClassVar = {
        "latent channels": (("in_channels", "out_channels"), "the edge cannot take the cloud's latents"),
        "embedding width": (("cross_attention_dim",), "the edge cannot take the cloud's embeddings"),
    }
    may_differ: ClassVar = {"trained size": ("sample_size",)}
    left_out_parts = ("safety_checker", "feature_extractor", "image_encoder")

    @property
    def default_size(self) -> Size:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return Size(side, side)

    def check_size(self, size: Size) -> None:
        factor = self.pipeline.vae_scale_factor
        if min(size.height, size.width) < factor or size.height % factor or size.width % factor:
            own = self.default_size
            raise ParamsError(
                f"Expected height and width to be multiples of {factor} pixels, got "
                f"{size.height}x{size.width}. The model was trained for {own.height}x{own.width}."
            )

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

    def initial_latents(
        self, prompts: int, size: Size, scheduler: SchedulerMixin, generator: Generators
    ) -> Tensor:
        pipeline = self.pipeline
        channels = pipeline.unet.config.in_channels
        latents = pipeline.prepare_latents(
            prompts, channels, size.height, size.width, pipeline.unet.dtype, self.device, generator
        )
        return rescaled_noise(latents, pipeline.scheduler, scheduler)

    def bind(self, model: nn.Module, conditioning: Conditioning, guidance_scale: float) -> Denoiser:
        def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
            if guidance_scale <= 1:
                return model(latents, timestep, **conditioning.tensors, return_dict=False)[0]
            pair = torch.cat([latents, latents])
            return guide(model(pair, timestep, **conditioning.tensors, return_dict=False)[0], guidance_scale)

        return denoise

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        pictures = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(pictures, output_type="pt").float()

    def to_pil(self, pictures: Tensor) -> list[Image]:
        processor = self.pipeline.image_processor
        return processor.numpy_to_pil(processor.pt_to_numpy(pictures))
