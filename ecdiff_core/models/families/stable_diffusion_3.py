"""Stable Diffusion 3 and 3.5: a transformer trained by flow matching, under three text encoders."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers import SchedulerMixin, StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor, nn

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.families.family import Prompts, Size
from ecdiff_core.models.families.image import OF_ONE_SIZE, ImageFamily
from ecdiff_core.sampling.batching import Conditioning

_T5_TOKENS = 256
"""Of a prompt, as many as the pipeline reads unless it is asked for another number."""


class StableDiffusion3(ImageFamily):
    """Adapter over ``StableDiffusion3Pipeline``, without its skip-layer guidance.

    The model answers with a velocity; that is what is extrapolated. Where the third text encoder (T5) is left
    out, diffusers puts zeros in the place of its embeddings.
    """

    pipeline_class = StableDiffusion3Pipeline
    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    answers = "flow"
    unweighted_parts = ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler")
    optional_parts = ("text_encoder_3", "tokenizer_3")
    must_agree: ClassVar = {
        "latent channels": (("in_channels", "out_channels"), "the edge cannot take the cloud's latents"),
        "patch size": (("patch_size",), "the edge cannot take images of every size that the cloud can"),
        "embedding width": (("joint_attention_dim",), "the edge cannot take the cloud's embeddings"),
        "pooled width": (("pooled_projection_dim",), "the edge cannot take the cloud's pooled embeddings"),
    }
    may_differ: ClassVar = {
        "trained size": (("sample_size",), OF_ONE_SIZE),
        "position embeddings": (("pos_embed_max_size",), "the smaller table bounds the size for both"),
    }
    left_out_parts = ("image_encoder", "feature_extractor")

    @property
    def size_multiple(self) -> int:
        multiple: int = self.pipeline.vae_scale_factor * self.denoiser_config.patch_size
        return multiple

    def check_size(self, size: Size, edge: nn.Module | None = None) -> None:
        super().check_size(size, edge)
        config: Any = self.denoiser_config if edge is None else edge.config
        most = self.size_multiple * config.pos_embed_max_size
        if max(size.height, size.width) > most:
            side = "cloud" if edge is None else "edge"
            raise ParamsError(
                key="height and width",
                got=size.sides,
                expected=f"of at most {most} pixels, for which the {side} model has position embeddings",
                advice="Lower sampling.height and sampling.width.",
            )

    def fit_scheduler(self, scheduler: SchedulerMixin, size: Size) -> SchedulerMixin:
        """``scheduler`` with the shift that dynamic shifting gives an image of that size (SD3's eq. 23)."""
        config = scheduler.config
        if not config.get("use_dynamic_shifting"):
            return scheduler
        mu = calculate_shift(
            size.height // self.size_multiple * (size.width // self.size_multiple),
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        fitted = type(scheduler).from_config(config, use_dynamic_shifting=False, shift=1.0)
        # exp(mu) / (exp(mu) + 1/t - 1) is the fixed shift's a t / (1 + (a - 1) t) with a = exp(mu).
        fitted.set_shift(math.exp(mu) if config.time_shift_type == "exponential" else mu)
        return fitted

    def read_tokens(self, tokenizer: str) -> int:
        return _T5_TOKENS if tokenizer == "tokenizer_3" else super().read_tokens(tokenizer)

    @torch.no_grad()
    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        guided = guidance_scale > 1
        embeds, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=list(negative_prompts) if guided and negative_prompts else None,
            max_sequence_length=_T5_TOKENS,
        )
        if guided:
            embeds, pooled = torch.cat([negative, embeds]), torch.cat([negative_pooled, pooled])
        return Conditioning({"encoder_hidden_states": embeds, "pooled_projections": pooled}, len(prompts))

    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.denoiser_config
        tokens = self.read_tokens("tokenizer") + _T5_TOKENS
        return {
            "encoder_hidden_states": (tokens, config.joint_attention_dim),
            "pooled_projections": (config.pooled_projection_dim,),
        }

    def call(self, model: nn.Module, latents: Tensor, timestep: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return model(latents, timestep=timestep.expand(len(latents)), **tensors, return_dict=False)[0]

    def unscale(self, latents: Tensor) -> Tensor:
        return super().unscale(latents) + self.pipeline.vae.config.shift_factor
