"""What a family adapter offers. The sampler, the pipeline and the tuner speak to nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from PIL.Image import Image
from torch import Tensor, nn

from ecdiff_core.sampler import Denoiser


@dataclass(frozen=True)
class Conditioning:
    """What encoded prompts hand to the denoiser: a family's tensors by name, for ``size`` prompts."""

    tensors: dict[str, Tensor]
    size: int


class Family(ABC):
    """Adapter over one diffusers pipeline class; holds a pipeline with the cloud's parts, forks none."""

    parts: ClassVar[tuple[str, ...]]
    """Folders whose weights make a picture, the denoiser first."""
    unweighted_parts: ClassVar[tuple[str, ...]]
    """Folders without weights that a pipeline needs."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Family:
        """The adapter over the pipeline in a diffusers folder."""

    @classmethod
    @abstractmethod
    def load_denoiser(cls, folder: Path, dtype: torch.dtype) -> nn.Module:
        """The denoiser alone out of a diffusers folder."""

    @property
    @abstractmethod
    def pipeline(self) -> DiffusionPipeline:
        """The diffusers pipeline underneath."""

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The cloud's denoiser."""

    @property
    def scheduler(self) -> SchedulerMixin:
        """The scheduler that the cloud model came with."""
        return self.pipeline.scheduler

    @property
    @abstractmethod
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""

    @abstractmethod
    def mismatches(self, edge: nn.Module) -> list[str]:
        """What keeps ``edge`` from going on with the cloud's latents and embeddings; empty if nothing."""

    @abstractmethod
    def check_size(self, height: int, width: int) -> None:
        """Raise ParamsError unless the model can make pictures of height x width pixels."""

    @abstractmethod
    def encode(
        self, prompts: Sequence[str], guidance_scale: float, negative_prompts: Sequence[str] | None = None
    ) -> Conditioning:
        """Encode prompts (and negative prompts, default empty, when guidance_scale > 1)."""

    @abstractmethod
    def initial_latents(
        self,
        size: int,
        height: int,
        width: int,
        scheduler: SchedulerMixin,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> Tensor:
        """The noise to start from, shape (size, …), scaled by the scheduler's init_noise_sigma."""

    @abstractmethod
    def bind(self, model: nn.Module, conditioning: Conditioning, guidance_scale: float) -> Denoiser:
        """``model`` as a function of latents and timestep that answers with the guided noise."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of the latents, float32 RGB in 0 … 1, shape (batch, 3, height, width)."""

    @abstractmethod
    def to_pil(self, pictures: Tensor) -> list[Image]:
        """Those pictures for a user."""

    @abstractmethod
    def payload_values(self, conditioning: Conditioning, latents: Tensor) -> int:
        """How many numbers a prompt sends from cloud to edge: its latents and embeddings."""

    def to(self, *args: Any) -> Family:
        """Move the pipeline as ``DiffusionPipeline.to`` does."""
        self.pipeline.to(*args)
        return self
