"""Images that a placed plan makes of the cloud's prompts: nearly its own, for a fraction of the calls.

A race asks which of two configs is nearer to the cloud, and both are held against one image. That image may
be off a little, if it is off by the same for all configs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.models.memory import Batches
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.reference_files import faults_in, read

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_tune.evaluation.prefix_sharing import Generations


@dataclass(frozen=True)
class ReferencePlan:
    """A plan that makes reference images: the cloud is asked at some steps, the rest is approximated.

    Args:
        steps: with a cloud call.
        num_steps: T.
        predicted_error: 1 - SSIM to the images of the cloud's own run, as the forecast has it.
        full_runs: prompts, the first ones of the set, that have the cloud's own run.
    """

    steps: tuple[int, ...]
    alpha: float
    estimator: str
    num_steps: int
    predicted_error: float
    full_runs: int

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> ReferencePlan:
        """From what ``vars`` gave."""
        return cls(**{**tree, "steps": tuple(tree["steps"])})

    @property
    def candidate(self) -> Candidate:
        """What makes the images."""
        return Candidate(ECDiffParams.scheduled(self.steps, self.alpha, self.num_steps), self.estimator)

    @property
    def name(self) -> str:
        """As the ledger tells it from others."""
        steps = ",".join(map(str, self.steps))
        return f"steps {steps} of {self.num_steps} {self.estimator} {self.alpha:g}"


@dataclass(frozen=True)
class PlacedImages:
    """The images by one plan, one file a prompt beside the full references.

    Args:
        folder: of the references; its name changes with weights and sampling.
    """

    plan: ReferencePlan
    folder: Path

    def path_of(self, key: str) -> Path:
        """The file of the prompt of that key."""
        return (
            self.folder
            / f"{key}.placed-{hashlib.sha256(self.plan.name.encode()).hexdigest()[:12]}.safetensors"
        )

    def image(self, key: str) -> Tensor:
        """A prompt's image, RGB in 0 … 1, float16, as ``PromptReference.cloud``.

        Raises:
            DamagedReferenceError: the file is gone or damaged.
        """
        return read(self.path_of(key), "cloud")["cloud"]

    def missing(self, prompts: CalibrationSet) -> list[int]:
        """The prompts, by index, whose image is not there."""
        return [row for row, key in enumerate(prompts.keys) if not self.path_of(key).is_file()]

    def faulty_rows(self, prompts: CalibrationSet) -> dict[int, tuple[str, int]]:
        """By index, the prompts with images that nothing can be compared with, and what is wrong."""
        paths = [(row, self.path_of(key)) for row, key in enumerate(prompts.keys)]
        found = {row: int(faults_in(path)[0]) for row, path in paths if path.is_file()}
        return {row: ("cloud", number) for row, number in found.items() if number}

    def make(
        self,
        pipe: ECDiffPipeline,
        prompts: CalibrationSet,
        generations: Generations,
        batches: Batches,
        on_prompts: Callable[[int], None],
        calls: Counter[str],
    ) -> None:
        """Make what is missing; whoever makes a batch writes it. Stopped at any moment a batch is lost.

        Args:
            generations: of the prompts.
            on_prompts: called with how many prompts became ready.
            calls: counts model calls and decodes.

        Raises:
            OutOfMemoryError: a single prompt does not fit.
        """
        missing = self.missing(prompts)
        on_prompts(len(prompts) - len(missing))

        @torch.no_grad()
        def generate(rows: Sequence[int]) -> Counter[str]:
            handoff = pipe.config.sampling.handoff
            config = self.plan.candidate.resolve(pipe.num_steps, handoff)
            finals, took = generations.finals([config], rows)
            (state,) = finals.values()
            for row, latents, image in zip(
                rows, state.latents, pipe.pair.family.decode(state.latents), strict=True
            ):
                fault = image_faults.fault(image) if torch.isfinite(latents).all() else 1
                with replacing(self.path_of(prompts.keys[row])) as part:
                    tensors = {"cloud": image.half().cpu().contiguous(), "faults": torch.tensor([fault])}
                    save_file(tensors, part)
            return took + Counter(decode=len(rows))

        for rows, took in batches.over(missing, generate):
            calls.update(took)
            on_prompts(len(rows))
