"""What the families of images share: an AutoencoderKL, and one call a step with both halves of guidance."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from diffusers import SchedulerMixin
from PIL.Image import Image
from torch import Tensor, nn

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.families.family import Family, Generators, Size, initial_noise
from ecdiff_core.models.families.guidance import (
    Guidance,
    both_halves,
    embed_scale,
    embedding_width,
    guide,
    is_guided,
)
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.sampler import Denoiser

OTHER_CONDITIONS: tuple[tuple[str, ...], str] = (
    ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"),
    "each needs to be called with something else",
)
"""Of U-Nets that want more than latents, timestep and prompt: keys of the config, and why to refuse."""
OF_ONE_SIZE = "both make the cloud's, or what sampling.height and width say"
"""Of a trained size that differs."""
OWN_GUIDANCE: tuple[tuple[str, ...], str] = (
    ("time_cond_proj_dim",),
    "each model gets the scale in its own way: as an embedding, or by classifier-free guidance",
)
"""Of U-Nets of which one may take the guidance scale as an input (``families/guidance.py``)."""


class ImageFamily(Family):
    """A family whose pipeline has ``prepare_latents``, ``vae_scale_factor`` and ``image_processor``.

    Left to a family are ``encode`` and ``call``, and where they differ ``size_multiple`` and ``unscale``.
    """

    @abstractmethod
    def call(self, model: nn.Module, latents: Tensor, timestep: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """One call of the model: (batch, channels, height, width) to the same shape.

        Args:
            timestep: the scheduler's: one for the whole batch, or one a sample, shape (batch,).
            tensors: those of a ``Conditioning``, ``batch`` long; of a U-Net that takes the guidance scale
                (``families/guidance.py``) also its embedding, ``timestep_cond``.
        """

    def unscale(self, latents: Tensor) -> Tensor:
        """The denoiser's latents as the autoencoder knows them."""
        return latents / self.pipeline.vae.config.scaling_factor

    @property
    def denoiser_config(self) -> Any:
        """The config of the cloud's denoiser."""
        return getattr(self.pipeline, self.denoiser_part).config

    @property
    def size_multiple(self) -> int:
        """Pixels of which height and width must be multiples."""
        multiple: int = self.pipeline.vae_scale_factor
        return multiple

    @property
    def default_size(self) -> Size:
        sides, factor = self.denoiser_config.sample_size, self.pipeline.vae_scale_factor
        if sides is None:
            raise ParamsError(
                f"The config.json of the cloud's {self.denoiser_part} has no sample_size to take the "
                "size from.",
                key="height and width",
                advice="Set sampling.height and sampling.width.",
            )
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return Size(height * factor, width * factor)

    def check_size(self, size: Size, edge: nn.Module | None = None) -> None:
        multiple = self.size_multiple
        if min(size.height, size.width) < multiple or size.height % multiple or size.width % multiple:
            advice = ""
            if self.denoiser_config.sample_size is not None:
                own = self.default_size
                advice = f"The model was trained for {own.height}x{own.width}."
            expected = f"to be multiples of {multiple} pixels"
            raise ParamsError(key="height and width", got=size.sides, expected=expected, advice=advice)

    def latents_shape(self, size: Size) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        return (self.denoiser_config.in_channels, size.height // factor, size.width // factor)

    def initial_latents(
        self, prompts: int, size: Size, scheduler: SchedulerMixin, generator: Generators
    ) -> Tensor:
        shape, dtype = (prompts, *self.latents_shape(size)), getattr(self.pipeline, self.denoiser_part).dtype
        return initial_noise(shape, dtype, self.device, scheduler, generator)

    def bind(self, model: nn.Module, conditioning: Conditioning, guidance: Guidance) -> Denoiser:
        guided, width = is_guided(model, guidance.scale), embedding_width(model)

        def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
            if guided:
                twice = torch.cat([latents, latents])
                both = self.call(model, twice, both_halves(timestep), conditioning.tensors)
                return guide(both, guidance.at(timestep))
            tensors = conditioning.with_prompt
            if width is not None:
                tensors["timestep_cond"] = embed_scale(guidance.scale, width, latents)
            return self.call(model, latents, timestep, tensors)

        return denoise

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        images = vae.decode(self.unscale(latents.to(vae.dtype)), return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(images, output_type="pt").float()

    def to_pil(self, images: Tensor) -> list[Image]:
        processor = self.pipeline.image_processor
        return processor.numpy_to_pil(processor.pt_to_numpy(images))
