"""What a family adapter offers. The sampler, the pipeline and the tuner speak to nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from ecdiff_core import single_file
from ecdiff_core.families.parts import empty_parts, load_part, part_class
from ecdiff_core.find import ModelFiles
from ecdiff_core.sampler import Denoiser


@dataclass(frozen=True)
class Size:
    """Of what is generated: pixels, and frames of a video (1 for a picture)."""

    height: int
    width: int
    num_frames: int = 1


@dataclass(frozen=True)
class Conditioning:
    """What encoded prompts hand to the denoiser: a family's tensors by name, for ``size`` prompts.

    With guidance a tensor's first half is without, its second half with the prompt.
    """

    tensors: dict[str, Tensor]
    size: int


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a generation.

    Args:
        scale: 1 or less is none.
        dynamic_steps: None for the same scale at every step; else num_inference_steps, and the scale varies
            with the timestep t as 1 + scale (1 - cos(pi ((steps - t) / steps)^5)) / 2, as diffusers'
            CogVideoX pipelines do for ``use_dynamic_cfg``.
    """

    scale: float
    dynamic_steps: int | None = None

    def at(self, timestep: Tensor) -> float:
        """The scale at a timestep."""
        if self.dynamic_steps is None:
            return self.scale
        left = (self.dynamic_steps - float(timestep)) / self.dynamic_steps
        return 1 + self.scale * (1 - math.cos(math.pi * left**5)) / 2


Prompts = Sequence[str]
Generators = torch.Generator | list[torch.Generator] | None


class Family(ABC):
    """Adapter over one diffusers pipeline class; holds a pipeline with the cloud's parts, forks none."""

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser_part: ClassVar[str]
    """``unet`` or ``transformer``."""
    text_encoder_parts: ClassVar[tuple[str, ...]]
    unweighted_parts: ClassVar[tuple[str, ...]]
    """Folders without weights that a pipeline needs."""
    optional_parts: ClassVar[tuple[str, ...]] = ()
    """Of those two, the ones that a model may be without."""
    left_out_parts: ClassVar[tuple[str, ...]] = ()
    """Optional parts of the pipeline that are not loaded."""
    must_agree: ClassVar[dict[str, tuple[tuple[str, ...], str]]]
    """Name of a property: keys of the denoiser's config, and why another value is refused."""
    may_differ: ClassVar[dict[str, tuple[tuple[str, ...], str]]] = {}
    """Name of a property: keys of the denoiser's config, and what becomes of another value."""
    media: ClassVar[Literal["image", "video"]] = "image"
    offers_dynamic_cfg: ClassVar[bool] = False
    """Whether the pipeline knows ``use_dynamic_cfg``."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def weighted_parts(cls) -> tuple[str, ...]:
        """Folders whose weights make a picture, the denoiser first."""
        return (cls.denoiser_part, "vae", *cls.text_encoder_parts)

    @classmethod
    def absent_parts(cls, folder: Path) -> tuple[str, ...]:
        """The optional parts that the model in a diffusers folder is without."""
        return empty_parts(folder, cls.optional_parts)

    @classmethod
    def load(cls, files: ModelFiles, dtype: torch.dtype) -> Family:
        """The adapter over a pipeline of diffusers.

        Raises:
            OSError, ValueError, RuntimeError, SafetensorError: as diffusers does for damaged files.
            PairError: a part has no weights.
        """
        folder, absent = files.folder, cls.absent_parts(files.folder)
        given: dict[str, Any] = dict.fromkeys((*cls.left_out_parts, *absent))
        if files.checkpoint is None:
            for part in cls.weighted_parts():
                if part not in absent:
                    given[part] = load_part(folder, part, dtype, files.variant)
            pipeline = cls.pipeline_class.from_pretrained(folder, dtype=dtype, local_files_only=True, **given)
        else:
            pipeline = single_file.load_pipeline(cls.pipeline_class, files.checkpoint, folder, dtype, given)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline)

    @classmethod
    def load_denoiser(cls, files: ModelFiles, dtype: torch.dtype) -> nn.Module:
        """The denoiser alone; raises as ``load``."""
        folder, part = files.folder, cls.denoiser_part
        if files.checkpoint is None:
            return load_part(folder, part, dtype, files.variant)
        model_class = part_class(folder, part)
        return single_file.load_denoiser(model_class, files.checkpoint, folder, part, dtype)

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline underneath."""
        return self._pipeline

    @property
    def denoiser(self) -> nn.Module:
        """The cloud's denoiser."""
        denoiser: nn.Module = getattr(self._pipeline, self.denoiser_part)
        return denoiser

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        vae: nn.Module = self.pipeline.vae
        return vae

    @property
    def models(self) -> list[nn.Module]:
        """Every model that is loaded, the text encoders first."""
        parts = (*self.text_encoder_parts, self.denoiser_part, "vae")
        found = [getattr(self.pipeline, part) for part in parts]
        return [model for model in found if model is not None]

    @property
    def scheduler(self) -> SchedulerMixin:
        """The scheduler that the cloud model came with."""
        return self.pipeline.scheduler

    @property
    def device(self) -> torch.device:
        """Where the models compute, also where offload keeps them elsewhere meanwhile."""
        device: torch.device = self.pipeline._execution_device
        return device

    @property
    @abstractmethod
    def default_size(self) -> Size:
        """The size that the model was trained for."""

    @abstractmethod
    def check_size(self, size: Size) -> None:
        """Raise ParamsError unless the model can make pictures of that size."""

    def fit_scheduler(self, scheduler: SchedulerMixin, size: Size) -> SchedulerMixin:
        """``scheduler`` for that size. Most models noise every size alike: then it is the same one."""
        return scheduler

    @abstractmethod
    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        """Encode prompts (and negative prompts, default empty, when guidance_scale > 1)."""

    @abstractmethod
    def initial_latents(
        self, prompts: int, size: Size, scheduler: SchedulerMixin, generator: Generators
    ) -> Tensor:
        """The noise to start from, shape (prompts, …), scaled by the scheduler's init_noise_sigma."""

    @abstractmethod
    def bind(self, model: nn.Module, conditioning: Conditioning, guidance: Guidance) -> Denoiser:
        """``model`` as a function of latents and timestep that answers with the guided output."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of the latents, float32 RGB in 0 … 1.

        Shape (batch, 3, height, width), of videos (batch, frames, 3, height, width).
        """

    @abstractmethod
    def to_pil(self, pictures: Tensor) -> list[Any]:
        """Those for a user: a PIL picture each, of a video a list of its frames."""

    def payload_values(self, conditioning: Conditioning, latents: Tensor) -> int:
        """How many numbers a prompt sends from cloud to edge: its latents and embeddings."""
        embeds = sum(tensor.numel() for tensor in conditioning.tensors.values())
        return embeds // conditioning.size + latents.numel() // len(latents)


def guide(output: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance over a batch whose first half is without, its second half with the prompt."""
    unconditional, text = output.chunk(2)
    return unconditional + guidance_scale * (text - unconditional)


def rescaled_noise(latents: Tensor, own: SchedulerMixin, used: SchedulerMixin) -> Tensor:
    """Noise that a pipeline scaled by its own scheduler's sigma, scaled by that of the one in use.

    Flow matching starts from plain noise: its schedulers have no such sigma.
    """
    return latents * (getattr(used, "init_noise_sigma", 1.0) / getattr(own, "init_noise_sigma", 1.0))
