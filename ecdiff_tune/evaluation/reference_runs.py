"""The models' own runs on a prompt set, made where they are missing and written as a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.models.memory import Batches
from ecdiff_core.models.pair_spec import Side
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults
from ecdiff_tune.evaluation.baseline_trajectory import BaselineTrajectory, baseline_trajectory, prepare
from ecdiff_tune.evaluation.reference import Reference, load
from ecdiff_tune.evaluation.reference_files import (
    SIDES,
    edge_path,
    faulty_in,
    faulty_rows,
    missing,
    path_of,
    usable,
    without_edge,
)


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
