"""Stable Diffusion 1 and 2, and every U-Net pair that keeps its pipeline (BK-SDM, the embedded pair)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

from ecdiff_core.errors import ParamsError
from ecdiff_core.families.base import Conditioning, Family
from ecdiff_core.sampler import Denoiser


class StableDiffusion(Family):
    """Adapter over ``StableDiffusionPipeline``; text, latents and decoding stay diffusers' own."""

    parts = ("unet", "vae", "text_encoder")
    unweighted_parts = ("tokenizer", "scheduler")

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> StableDiffusion:
        # transformers fills tensors that are missing with random numbers; only this way it says so.
        loaded: Any = CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=dtype, local_files_only=True, output_loading_info=True
        )
        text_encoder, found = loaded
        if found["missing_keys"]:
            raise ValueError(f"the text encoder's weights lack {sorted(found['missing_keys'])[0]}")
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            text_encoder=text_encoder,
            dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline)

    @classmethod
    def load_denoiser(cls, folder: Path, dtype: torch.dtype) -> nn.Module:
        return UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", dtype=dtype, local_files_only=True
        ).eval()

    @property
    def pipeline(self) -> StableDiffusionPipeline:
        return self._pipeline

    @property
    def denoiser(self) -> nn.Module:
        return self._pipeline.unet

    @property
    def default_size(self) -> tuple[int, int]:
        side = self._pipeline.unet.config.sample_size * self._pipeline.vae_scale_factor
        return side, side

    def mismatches(self, edge: nn.Module) -> list[str]:
        names = ("in_channels", "out_channels", "cross_attention_dim")
        ours: dict[str, Any] = self._pipeline.unet.config
        theirs: dict[str, Any] = edge.config  # type: ignore[assignment]
        return [f"{name} {ours[name]} | {theirs[name]}" for name in names if ours[name] != theirs[name]]

    def check_size(self, height: int, width: int) -> None:
        # Every level of the U-Net halves the latents once, and the way up must meet the way down.
        factor = self._pipeline.vae_scale_factor * 2 ** (
            len(self._pipeline.unet.config.block_out_channels) - 1
        )
        if height < factor or width < factor or height % factor or width % factor:
            raise ParamsError(
                f"Expected height and width to be multiples of {factor} pixels, got {height}x{width}. "
                f"The model was trained for {self.default_size[0]}x{self.default_size[1]}."
            )

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str], guidance_scale: float, negative_prompts: Sequence[str] | None = None
    ) -> Conditioning:
        guided = guidance_scale > 1
        positive, negative = self._pipeline.encode_prompt(
            list(prompts),
            self._pipeline.device,
            1,
            guided,
            negative_prompt=list(negative_prompts) if guided and negative_prompts else None,
        )
        embeds = torch.cat([negative, positive]) if guided else positive
        return Conditioning({"encoder_hidden_states": embeds}, len(prompts))

    def initial_latents(
        self,
        size: int,
        height: int,
        width: int,
        scheduler: SchedulerMixin,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> Tensor:
        pipeline = self._pipeline
        channels = pipeline.unet.config.in_channels
        latents = pipeline.prepare_latents(
            size, channels, height, width, pipeline.unet.dtype, pipeline.device, generator
        )
        # The pipeline scaled by its own scheduler's sigma; ours may be of another class.
        return latents * (scheduler.init_noise_sigma / pipeline.scheduler.init_noise_sigma)

    def bind(self, model: nn.Module, conditioning: Conditioning, guidance_scale: float) -> Denoiser:
        def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
            if guidance_scale <= 1:
                return model(latents, timestep, **conditioning.tensors, return_dict=False)[0]
            pair = torch.cat([latents, latents])
            unconditional, text = model(pair, timestep, **conditioning.tensors, return_dict=False)[0].chunk(2)
            return unconditional + guidance_scale * (text - unconditional)

        return denoise

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        pictures = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return self._pipeline.image_processor.postprocess(pictures, output_type="pt").float()

    def to_pil(self, pictures: Tensor) -> list[Image]:
        processor = self._pipeline.image_processor
        return processor.numpy_to_pil(processor.pt_to_numpy(pictures))

    def payload_values(self, conditioning: Conditioning, latents: Tensor) -> int:
        embeds = sum(tensor.numel() for tensor in conditioning.tensors.values())
        return embeds // conditioning.size + latents.numel() // len(latents)
