"""What every config is compared with: the cloud's and the edge's images, made once and kept.

A prompt's file holds its two images, how much the cloud's noise changes from step to step (the paper's
Figure 3), and the Gram matrix of the cloud's noises, from which later searches predict errors. The edge's
image is made only where something reads it. Prompts that only a race reads have an image of a placed plan in
its place (``placed_images``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ecdiff_core.io.files import replacing
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair_spec import Side
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults
from ecdiff_tune.evaluation.baseline_trajectory import BaselineTrajectory, baseline_trajectory, prepare
from ecdiff_tune.evaluation.placed_images import PlacedImages
from ecdiff_tune.evaluation.reference_files import (
    SIDES,
    DamagedReferenceError,
    edge_path,
    faulty_in,
    faulty_rows,
    missing,
    path_of,
    read,
    usable,
    without_edge,
)

__all__ = [
    "SIDES",
    "DamagedReferenceError",
    "PromptReference",
    "Reference",
    "ReferenceCallback",
    "faulty_rows",
    "load",
    "make",
    "missing",
    "prepare",
    "read",
    "usable",
    "without_edge",
]


class ReferenceCallback(Protocol):
    """Makes something of the models' own runs, where they run: which may be another process."""

    def compute(
        self,
        rows: Sequence[int],
        conditioning: Conditioning,
        cloud: BaselineTrajectory,
        edge: BaselineTrajectory,
    ) -> Any:
        """What is made of the cloud's and the edge's own run on the prompts of these indices."""

    def keep(self, computed: Any) -> int:
        """Write what ``compute`` made; the edge calls that it took."""


Faults = dict[int, tuple[str, int]]
"""Whose image has which fault, by the prompt's index."""


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


def make(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    folder: Path,
    *,
    batches: Batches,
    on_prompts: Callable[[int], None],
    callback: ReferenceCallback | None = None,
    calls: Counter[str] | None = None,
    at_most: int | None = None,
    edge: bool = True,
) -> Reference:
    """The reference of a prompt set: read from ``folder`` where it is there, else generated and written.

    Without ``edge`` the edge's images are not made.

    ``on_prompts`` is called with how many prompts became ready. ``callback`` gets the runs that are made,
    with what the models were asked, and keeps what it makes of them before their references are written.
    Model calls and decodes are counted in ``calls``. Whoever makes a batch writes it. Stopped at any moment,
    at most a batch is lost.

    What comes back lacks the prompts with images that nothing can be compared with; ``at_most`` so many, or
    None for a tenth (at least one), are taken for the prompts' fault.

    Raises:
        NonFiniteLatentsError, UnusableReferenceError: more of the models' own images are such.
        OutOfMemoryError: a single prompt does not fit.
    """
    paths = [path_of(folder, key) for key in prompts.keys]
    wanted = missing(prompts, folder)
    later = set(without_edge(prompts, folder)) if edge else set()
    most = image_faults.most_left_out(len(prompts)) if at_most is None else at_most
    dtype = pipe.config.sampling.dtype
    faulty = faulty_rows(prompts, folder)
    image_faults.refuse_many(faulty, prompts, most, dtype)
    on_prompts(len(prompts) - len(wanted) - len(later))

    def generate(rows: Sequence[int]) -> tuple[Faults, int]:
        found, computed = _generate(pipe, prompts, callback, SIDES if edge else SIDES[:1], rows)
        own = {
            row: fault
            for row, tensors in zip(rows, found, strict=True)
            for row, fault in faulty_in(row, tensors["faults"]).items()
        }
        image_faults.refuse_many(faulty | own, prompts, most, dtype)
        beside = 0 if callback is None else callback.keep(computed)
        for row, tensors in zip(rows, found, strict=True):
            with replacing(paths[row]) as part:
                save_file(tensors, part)
        return own, beside

    def add_edge(rows: Sequence[int]) -> tuple[Faults, int]:
        return _add_edge(pipe, prompts, paths, rows), 0

    for some, work, sides in ((wanted, generate, 1 + edge), (sorted(later), add_edge, 1)):
        for rows, (own, beside) in batches.over(some, work):
            if calls is not None:
                each = len(rows) * pipe.num_steps
                runs = {"cloud": each * (some is wanted), "edge": each * edge + beside}
                calls.update(**runs, decode=sides * len(rows))
            faulty |= own
            image_faults.refuse_many(faulty, prompts, most, dtype)
            on_prompts(len(rows))
    return load(usable(prompts, folder), folder)


def _add_edge(
    pipe: ECDiffPipeline, prompts: CalibrationSet, paths: Sequence[Path], rows: Sequence[int]
) -> Faults:
    """Make and write the edge's images of prompts whose files are without them."""
    run = baseline_trajectory(pipe, prepare(pipe, prompts, rows), "edge")
    images = pipe.pair.family.decode(run.latents)
    found: Faults = {}
    for i, row in enumerate(rows):
        faults = torch.tensor([0, _fault(run.latents[i], images[i])])
        seconds = torch.tensor([float("nan"), run.seconds / len(rows)], dtype=torch.float64)
        with replacing(edge_path(paths[row])) as part:
            save_file(
                {"edge": images[i].half().cpu().contiguous(), "seconds": seconds, "faults": faults}, part
            )
        found |= faulty_in(row, faults)
    return found


def load(prompts: CalibrationSet, folder: Path) -> Reference:
    """The reference of a prompt set that is there."""
    return Reference(tuple(_open(path_of(folder, key)) for key in prompts.keys), prompts)


def _open(path: Path) -> PromptReference:
    """A prompt's reference with all but its images read."""
    found = read(path, "noise_change", "gram", "seconds")
    if (later := edge_path(path)).is_file():
        found["seconds"] = torch.stack([found["seconds"][0], read(later, "seconds")["seconds"][1]])
    return PromptReference(path, **found)


def _generate(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    callback: ReferenceCallback | None,
    sides: Sequence[Side],
    rows: Sequence[int],
) -> tuple[list[dict[str, Tensor]], Any]:
    """What the files of these prompts hold, and what the callback made of their runs."""
    batch = prepare(pipe, prompts, rows)
    runs = {side: baseline_trajectory(pipe, batch, side, keep=callback is not None) for side in sides}
    images = {side: pipe.pair.family.decode(run.latents) for side, run in runs.items()}
    computed = None
    if callback is not None:
        computed = callback.compute(rows, batch.conditioning, runs["cloud"], runs["edge"])
    flat = torch.stack([eps.flatten(1) for eps in runs["cloud"].noises], dim=1)
    change = flat.diff(dim=1).abs().mean(dim=2).cpu()
    flat = flat.cpu().double()
    gram = flat @ flat.transpose(1, 2)
    spent = [runs[side].seconds / len(rows) if side in runs else float("nan") for side in SIDES]
    seconds = torch.tensor(spent, dtype=torch.float64)
    found = [
        {
            **{side: images[side][i].half().cpu().contiguous() for side in sides},
            "noise_change": change[i].contiguous(),
            "gram": gram[i].contiguous(),
            "seconds": seconds,
            "faults": torch.tensor(
                [_fault(runs[side].latents[i], images[side][i]) if side in runs else 0 for side in SIDES]
            ),
        }
        for i in range(len(rows))
    ]
    return found, computed


def _fault(latents: Tensor, image: Tensor) -> int:
    """As ``image_faults.fault``; a decoder may make an image of latents that are not finite."""
    return image_faults.fault(image) if torch.isfinite(latents).all() else 1
