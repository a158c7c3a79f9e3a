"""What a family adapter offers. The sampler, the pipeline and the tuner speak to nothing else."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ecdiff_core.models import single_file
from ecdiff_core.models.answers import Answer
from ecdiff_core.models.families.guidance import Guidance, is_guided
from ecdiff_core.models.families.parts import empty_parts, load_part, part_class
from ecdiff_core.models.find import ModelFiles
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.sampler import Denoiser


@dataclass(frozen=True)
class Size:
    """Of what is generated: pixels, and frames of a video (1 for an image)."""

    height: int
    width: int
    num_frames: int = 1

    @property
    def sides(self) -> dict[str, int]:
        """Height and width by name, for errors."""
        return {"height": self.height, "width": self.width}


Prompts = Sequence[str]
Generators = torch.Generator | list[torch.Generator] | None


class Family(ABC):
    """Adapter over one diffusers pipeline class; holds a pipeline with the cloud's parts, copies none."""

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
    answers: ClassVar[Answer] = "noise"
    """What the denoiser was trained to answer."""
    media: ClassVar[Literal["image", "video"]] = "image"
    offers_dynamic_cfg: ClassVar[bool] = False
    """Whether the pipeline knows ``use_dynamic_cfg``."""
    timestep_per_sample: ClassVar[bool] = True
    """Whether the samples of one call may be at different timesteps."""
    noise_dtype: ClassVar[torch.dtype | None] = None
    """In which the pipeline steps its scheduler; None for the latents' own dtype."""

    alone: threading.RLock
    """Held by whoever uses the tokenizers, or models that offload moves: one thread at a time may."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline, self.alone = pipeline, threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "alone"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, alone=threading.RLock())

    @classmethod
    def weighted_parts(cls) -> tuple[str, ...]:
        """Folders whose weights make an image, the denoiser first."""
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
    def load_decoder(cls, files: ModelFiles, dtype: torch.dtype, denoiser: nn.Module) -> Family:
        """The adapter over a pipeline with its autoencoder alone; raises as ``load``.

        Args:
            files: of a diffusers folder.
            denoiser: what stands in the cloud's place.
        """
        folder = files.folder
        absent = (*cls.left_out_parts, *cls.absent_parts(folder), *cls.text_encoder_parts, cls.denoiser_part)
        given: dict[str, Any] = dict.fromkeys(absent)
        given["vae"] = load_part(folder, "vae", dtype, files.variant)
        pipeline = cls.pipeline_class.from_pretrained(folder, dtype=dtype, local_files_only=True, **given)
        pipeline.set_progress_bar_config(disable=True)
        setattr(pipeline, cls.denoiser_part, denoiser)
        return cls(pipeline)

    def load_text_encoders(self, files: ModelFiles, dtype: torch.dtype) -> None:
        """Load what ``load_decoder`` left out, beside the other models; raises as ``load``."""
        absent = self.absent_parts(files.folder)
        for part in self.text_encoder_parts:
            if part not in absent and getattr(self.pipeline, part) is None:
                encoder = load_part(files.folder, part, dtype, files.variant)
                setattr(self.pipeline, part, encoder.to(self.device))

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
        denoiser: Any = self.denoiser
        # What diffusers asks of every module takes milliseconds, and is needed only where some are moved.
        moved = any(hasattr(denoiser, hook) for hook in ("_hf_hook", "_diffusers_hook"))
        device: torch.device = self.pipeline._execution_device if moved else denoiser.device
        return device

    @property
    @abstractmethod
    def default_size(self) -> Size:
        """The size that the cloud model was trained for.

        Raises:
            ParamsError: its config does not say.
        """

    def size_of(self, height: int | None, width: int | None, num_frames: int | None) -> Size:
        """That size, ``default_size`` where it is left open; raises as that does."""
        if height is not None and width is not None and self.media == "image":
            return Size(height, width)
        own = self.default_size
        return Size(
            own.height if height is None else height,
            own.width if width is None else width,
            own.num_frames if num_frames is None else num_frames,
        )

    @abstractmethod
    def check_size(self, size: Size, edge: nn.Module | None = None) -> None:
        """Raise ParamsError unless the cloud model (or, where it is given, the edge's) can make that size."""

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
        """Encode prompts (and negative prompts, default empty, when guidance_scale > 1).

        Whether a pair's models need the half without the prompt, ``needs_negatives`` tells.
        """

    @abstractmethod
    def conditioning_shapes(self) -> dict[str, tuple[int, ...]]:
        """What ``encode`` makes of a prompt, by name, without the batch; told from configs alone."""

    def read_tokens(self, tokenizer: str) -> int:
        """How many tokens of a prompt ``encode`` reads, the two at the ends included.

        Args:
            tokenizer: its name in the pipeline.
        """
        most: int = getattr(self.pipeline, tokenizer).model_max_length
        return most

    @staticmethod
    def needs_negatives(models: Sequence[nn.Module], guidance_scale: float) -> bool:
        """Whether any of the models is called with and without the prompt at that scale."""
        return any(is_guided(model, guidance_scale) for model in models)

    @abstractmethod
    def latents_shape(self, size: Size) -> tuple[int, ...]:
        """Of what is sampled at that size, without the batch."""

    @abstractmethod
    def initial_latents(
        self, prompts: int, size: Size, scheduler: SchedulerMixin, generator: Generators
    ) -> Tensor:
        """The noise to start from, shape (prompts, …), scaled by the scheduler's init_noise_sigma."""

    @abstractmethod
    def bind(self, model: nn.Module, conditioning: Conditioning, guidance: Guidance) -> Denoiser:
        """``model`` as a function of latents and timestep that answers with the guided output.

        Where ``timestep_per_sample`` says so, a timestep of shape (batch,) has one for every sample.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of the latents, float32 RGB in 0 … 1.

        Shape (batch, 3, height, width), of videos (batch, frames, 3, height, width).
        """

    @abstractmethod
    def to_pil(self, images: Tensor) -> list[Any]:
        """Those for a user: a PIL image each, of a video a list of its frames."""

    def payload_values(self, conditioning: Conditioning, latents: Tensor) -> int:
        """How many numbers a prompt sends from cloud to edge: its latents and embeddings."""
        embeds = sum(tensor.numel() for tensor in conditioning.tensors.values())
        return embeds // conditioning.size + latents.numel() // len(latents)


def initial_noise(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    scheduler: SchedulerMixin,
    generator: Generators,
) -> Tensor:
    """Noise as diffusers' ``prepare_latents`` draws it, scaled for the scheduler in use, not the pipeline's.

    It is scaled once, as a pipeline with that scheduler would, so that half precision rounds no second time.
    Flow matching starts from plain noise: its schedulers have no ``init_noise_sigma``.
    """
    noise: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)
