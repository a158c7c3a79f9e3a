"""CogVideoX: text to video with a transformer over latents of whole clips (5B, 2B and their kin)."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from diffusers import CogVideoXPipeline, SchedulerMixin
from PIL.Image import Image
from torch import Tensor, nn

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.families.family import Family, Generators, Prompts, Size, initial_noise
from ecdiff_core.models.families.guidance import Guidance, both_halves, guide
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.sampler import Denoiser


class CogVideoX(Family):
    """Adapter over ``CogVideoXPipeline``; text, latents, positions and decoding stay diffusers' own.

    Latents have shape (batch, latent frames, channels, height / 8, width / 8), 13 latent frames for 49. The
    models predict v, so v is what the estimators extrapolate; DDIM's step is linear in it as in the noise.
    With ``use_dynamic_cfg`` the guidance scale changes from step to step, and with it the guided output that
    is extrapolated.
    """

    pipeline_class = CogVideoXPipeline
    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    unweighted_parts = ("tokenizer", "scheduler")
    must_agree: ClassVar = {
        "latent channels": (("in_channels", "out_channels"), "the edge cannot take the cloud's latents"),
        "embedding width": (("text_embed_dim",), "the edge cannot take the cloud's embeddings"),
        "text tokens": (("max_text_seq_length",), "the edge expects embeddings of another length"),
        "patch": (("patch_size", "patch_size_t"), "the edge cuts latents into other patches"),
    }
    may_differ: ClassVar = {
        "rotary positions": (("use_rotary_positional_embeddings",), "each model gets its own"),
        "trained size": (
            ("sample_height", "sample_width", "sample_frames"),
            "both make the cloud's, or what sampling.height, width and num_frames say",
        ),
    }
    media: ClassVar[Literal["image", "video"]] = "video"
    offers_dynamic_cfg = True
    noise_dtype = torch.float32

    @property
    def default_size(self) -> Size:
        config, factor = self.pipeline.transformer.config, self.pipeline.vae_scale_factor_spatial
        return Size(config.sample_height * factor, config.sample_width * factor, config.sample_frames)

    def check_size(self, size: Size, edge: nn.Module | None = None) -> None:
        own, config = self.default_size, self.pipeline.transformer.config
        side = self.pipeline.vae_scale_factor_spatial * config.patch_size
        if min(size.height, size.width) < side or size.height % side or size.width % side:
            raise ParamsError(
                key="height and width",
                got=size.sides,
                expected=f"to be multiples of {side} pixels",
                advice=f"The model was trained for {own.height}x{own.width}.",
            )
        # Of an even number of latent frames the autoencoder makes more frames than were asked for.
        period = 2 * self.pipeline.vae_scale_factor_temporal
        if size.num_frames < 1 or (size.num_frames - 1) % period:
            raise ParamsError(
                key="num_frames",
                got=size.num_frames,
                expected=f"= {period} n + 1",
                advice=f"The model was trained for {own.num_frames}.",
            )
        if config.patch_size_t not in (None, 2):
            raise ParamsError(key="patch_size_t", got=config.patch_size_t, expected="to be null or 2")
        self._check_learned_positions(size, config if edge is None else edge.config)

    def _check_learned_positions(self, size: Size, config: Any) -> None:
        """Models with learned positions (``use_learned_positional_embeddings``) know one resolution alone."""
        factor = self.pipeline.vae_scale_factor_spatial
        only = config.sample_height * factor, config.sample_width * factor
        if config.use_learned_positional_embeddings and (size.height, size.width) != only:
            raise ParamsError(
                key="height and width",
                got=size.sides,
                expected=f"of {only[0]}x{only[1]} pixels, for which alone a model of the pair has positions",
                advice="Set sampling.height and sampling.width.",
            )

    def read_tokens(self, tokenizer: str) -> int:
        most: int = self.pipeline.transformer.config.max_text_seq_length
        return most

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
            list(negative_prompts) if guided and negative_prompts else None,
            do_classifier_free_guidance=guided,
            max_sequence_length=self.read_tokens("tokenizer"),
            device=self.device,
        )
        embeds = torch.cat([negative, positive]) if guided else positive
        return Conditioning({"encoder_hidden_states": embeds}, len(prompts))

    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        width: int = self.pipeline.transformer.config.text_embed_dim
        return {"encoder_hidden_states": (self.read_tokens("tokenizer"), width)}

    def latents_shape(self, size: Size) -> tuple[int, ...]:
        pipeline = self.pipeline
        config, ratio = pipeline.transformer.config, pipeline.vae_scale_factor_temporal
        # CogVideoX 1.5 joins latent frames two by two. Their number is odd, so one is put in front.
        frames = size.num_frames + (0 if config.patch_size_t is None else ratio)
        factor = pipeline.vae_scale_factor_spatial
        sides = size.height // factor, size.width // factor
        return ((frames - 1) // ratio + 1, config.in_channels, *sides)

    def initial_latents(
        self, prompts: int, size: Size, scheduler: SchedulerMixin, generator: Generators
    ) -> Tensor:
        shape, dtype = (prompts, *self.latents_shape(size)), self.pipeline.transformer.dtype
        return initial_noise(shape, dtype, self.device, scheduler, generator)

    def bind(self, model: nn.Module, conditioning: Conditioning, guidance: Guidance) -> Denoiser:
        guided = guidance.scale > 1

        @cache
        def positions(frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
            return self._rotary(model, frames, height, width)

        def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
            batch = torch.cat([latents, latents]) if guided else latents
            frames, _, height, width = latents.shape[1:]
            output = model(
                hidden_states=batch,
                timestep=(both_halves(timestep) if guided else timestep).expand(len(batch)),
                image_rotary_emb=positions(frames, height, width),
                return_dict=False,
                **conditioning.tensors,
            )[0].float()
            return guide(output, guidance.at(timestep)) if guided else output

        return denoise

    def _rotary(self, model: nn.Module, frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """A model's own rotary embeddings for latents of that size; None for one with fixed positions."""
        config: Any = model.config
        if not config.use_rotary_positional_embeddings:
            return None
        factor = self.pipeline.vae_scale_factor_spatial
        # The pipeline's method reads nothing else of a pipeline, and that of the cloud knows only the cloud.
        owner = SimpleNamespace(transformer=model, vae_scale_factor_spatial=factor)
        return CogVideoXPipeline._prepare_rotary_positional_embeddings(
            owner, height * factor, width * factor, frames, self.device
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pipeline = self.pipeline
        padded = pipeline.transformer.config.patch_size_t is not None
        videos = pipeline.decode_latents(latents[:, 1:] if padded else latents)
        return pipeline.video_processor.postprocess_video(videos, output_type="pt").float()

    def to_pil(self, images: Tensor) -> list[list[Image]]:
        processor = self.pipeline.video_processor
        return [processor.numpy_to_pil(processor.pt_to_numpy(video)) for video in images]
