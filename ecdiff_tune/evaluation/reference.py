"""What every config is compared with: the cloud's and the edge's images, made once and kept.

A prompt's file holds its two images, how much the cloud's noise changes from step to step (the paper's
Figure 3), and the Gram matrix of the cloud's noises, from which later searches predict errors. The edge's
image is made only where something reads it. Prompts that only a race reads have an image of a placed plan in
its place (``placed_images``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.sampling.params import LEAST_P
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.placed_images import PlacedImages
from ecdiff_tune.evaluation.reference_files import (
    edge_path,
    path_of,
    read,
)

SETTLED_SHARE = 0.75
"""Of the initial fall of the noise's change, what must be over when the warm-up ends."""


@dataclass(frozen=True)
class PromptReference:
    """One prompt's reference.

    Args:
        path: its file, from which the images are read whenever they are asked for (a video is large).
        noise_change: mean |eps_i - eps_{i-1}| over the elements of the guided noise, shape (T - 1,).
        gram: <eps_i, eps_j> of the guided noises of the cloud's run, float64, shape (T, T).
        seconds: of the cloud's and the edge's denoising, a prompt's share of its batch, shape (2,); not a
            number where the edge's was not run.
    """

    path: Path
    noise_change: Tensor
    gram: Tensor
    seconds: Tensor

    @property
    def cloud(self) -> Tensor:
        """The cloud's image, RGB in 0 … 1, float16, shape (3, height, width), of a video (frames, 3, …).

        Raises:
            DamagedReferenceError: the file is gone or damaged.
        """
        return read(self.path, "cloud")["cloud"]

    @property
    def edge(self) -> Tensor:
        """The edge's image, as ``cloud``."""
        later = edge_path(self.path)
        return read(later if later.is_file() else self.path, "edge")["edge"]


@dataclass(frozen=True)
class Reference:
    """The references of a prompt set, in its order.

    Args:
        prompts: the models' own runs on the first prompts of the set; on all where there is no ``placed``.
        placed: the images of all prompts by a placed plan, which count where there is no own run.
    """

    prompts: tuple[PromptReference, ...]
    prompt_set: CalibrationSet
    placed: PlacedImages | None = None

    def plan_of(self, row: int) -> str:
        """The plan that made the image which configs are compared with; empty for the cloud's own run."""
        return "" if self.placed is None or row < len(self.prompts) else self.placed.plan.name

    def plans_of(self, row: int) -> tuple[str, ...]:
        """Of all images that the prompt has: where there are two, they tell what a placed plan is off by."""
        if self.placed is None:
            return ("",)
        return ("", self.placed.plan.name)[row >= len(self.prompts) :]

    def image(self, row: int, plan: str) -> Tensor:
        """An image which configs are compared with, as ``PromptReference.cloud``.

        Args:
            plan: that made it, of ``plans_of`` the prompt.

        Raises:
            DamagedReferenceError: its file is gone or damaged.
        """
        if self.placed is None or not plan:
            return self.prompts[row].cloud
        return self.placed.image(self.prompt_set.keys[row])

    @cached_property
    def noise_change(self) -> NDArray[np.float64]:
        """Mean |eps_i - eps_{i-1}|, shape (prompts, T - 1)."""
        return torch.stack([one.noise_change for one in self.prompts]).double().numpy()

    def noise_profile(self) -> pd.DataFrame:
        """The data of Figure 3: mean and variance over prompts of |eps_i - eps_{i-1}|, a row a step."""
        change = self.noise_change
        steps = np.arange(1, change.shape[1] + 1)
        return pd.DataFrame({"step": steps, "mean": change.mean(axis=0), "variance": change.var(axis=0)})

    def seconds(self) -> tuple[float, float]:
        """Median seconds a prompt of the cloud's and of the edge's denoising."""
        cloud, edge = torch.stack([one.seconds for one in self.prompts]).median(dim=0).values.tolist()
        return cloud, edge


def load(prompts: CalibrationSet, folder: Path) -> Reference:
    """The reference of a prompt set that is there."""
    return Reference(tuple(_open(path_of(folder, key)) for key in prompts.keys), prompts)


def _open(path: Path) -> PromptReference:
    """A prompt's reference with all but its images read."""
    found = read(path, "noise_change", "gram", "seconds")
    if (later := edge_path(path)).is_file():
        found["seconds"] = torch.stack([found["seconds"][0], read(later, "seconds")["seconds"][1]])
    return PromptReference(path, **found)


def auto_p(noise_change: NDArray[np.float64], at_most: int) -> int:
    """p off the noise profile: where three quarters of the initial fall are over, 2 … ``at_most``.

    The paper reads p off its Figure 3, where the noise stops changing fast. Here: with d_i the mean change at
    step i and d_mid its median over the middle half of the steps, the first i with
    d_i <= d_mid + 0.25 (d_1 - d_mid).
    """
    profile = noise_change.mean(axis=0)
    if not len(profile):
        return LEAST_P
    middle = _middle(profile)
    settled = np.flatnonzero(profile <= middle + (1 - SETTLED_SHARE) * max(0.0, profile[0] - middle))
    return int(np.clip(settled[0] + 1 if len(settled) else LEAST_P, LEAST_P, max(LEAST_P, at_most)))


def falls(noise_change: NDArray[np.float64]) -> bool:
    """Whether the noise changes faster at the first step than in the middle, as ``auto_p`` goes by."""
    profile = noise_change.mean(axis=0)
    return bool(len(profile)) and bool(profile[0] > _middle(profile))


def _middle(profile: NDArray[np.float64]) -> float:
    """d_mid of ``auto_p``."""
    quarter = len(profile) // 4
    return float(np.median(profile[quarter : max(quarter + 1, 3 * quarter)]))
