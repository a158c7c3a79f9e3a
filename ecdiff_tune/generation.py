"""A loaded pair with its sampling settings, ready to run batches of prompts to any point of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecdiff_core.noise import Estimator, get_estimator
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampler import Denoiser, SamplerState, start


@dataclass(frozen=True)
class Batch:
    """Encoded prompts: the state before step 0 and the two models bound to them."""

    start: SamplerState
    cloud: Denoiser
    edge: Denoiser


@dataclass(frozen=True)
class Generation:
    """What reference and evaluator share; the pictures are those of ``ECDiffPipeline``."""

    pipe: ECDiffPipeline

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.pipe.pair.family.pipeline.device

    @property
    def num_steps(self) -> int:
        """T."""
        return self.pipe.config.sampling.num_inference_steps

    @property
    def estimator(self) -> Estimator:
        """How approximated steps get their noise."""
        return get_estimator(self.pipe.config.sampling.estimator)

    def batch(self, prompts: Sequence[str], seeds: Sequence[int]) -> Batch:
        """Encode prompts and draw each one's initial noise from its own seed."""
        pipe, family = self.pipe, self.pipe.pair.family
        guidance = pipe.config.sampling.guidance_scale
        conditioning = family.encode(prompts, guidance)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = family.initial_latents(len(prompts), pipe.height, pipe.width, pipe.scheduler, generators)
        return Batch(
            start(latents, pipe.scheduler, self.num_steps),
            family.bind(pipe.pair.cloud, conditioning, guidance),
            family.bind(pipe.pair.edge, conditioning, guidance),
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, float32 RGB in 0 … 1, shape (batch, 3, height, width)."""
        return self.pipe.pair.family.decode(latents)
