"""The images that a report shows, kept so that it needs no model: of the prompts with the lowest SSIM.

``samples/`` holds a file an image, ``samples/samples.csv`` says what they are, ``samples.png`` is a still
grid of them; ``edge_alone.csv`` measures the edge's own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ecdiff_core.io.atomic_files import replacing, write_text
from ecdiff_core.io.video import FPS
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.data.spreadsheets import csv_text
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.metrics.images import psnr, ssim
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import image_grid
from ecdiff_tune.study import files
from ecdiff_tune.study.progress import Progress

COUNT = 8
"""Prompts in the grid."""
SAME_SSIM = 1e-9
"""Of an image and itself, read back from a table."""
CLIPS = 4
"""Prompts whose videos are kept, which are large."""
CLIP_QUALITY = 90
"""Of WebP, 0 … 100."""


@dataclass(frozen=True)
class GridRow:
    """One way to make images: its plan, and an image or video a prompt, RGB in 0 … 1, with its SSIM."""

    name: str
    plan: Plan
    images: Tensor
    ssims: Sequence[float]

    @property
    def label(self) -> str:
        """Name and calls, over several lines."""
        plan = self.plan
        if not plan.hands_over and not plan.approximated:
            return f"{self.name}\n{plan.num_steps} calls"
        free = f"\n{plan.approximated} free" if plan.approximated else ""
        return f"{self.name}\n{plan.cloud_calls} + {plan.edge_calls}{free}"


def write(folder: Path, evaluator: Evaluator, reference: Reference, winner: Trial) -> None:
    """samples.png and samples/: cloud, edge, HybridSD and EC-Diff, the prompts with the lowest SSIM first.

    Of the prompts with the models' own runs.
    """
    own = winner.measurements[: len(reference.prompts)]
    found = [one.ssim if one.ssim is not None else 1.0 for one in own]
    worst = sorted(range(len(found)), key=lambda i: found[i])[:COUNT]
    if _are_there(folder, winner, [found[i] for i in worst]):
        return
    methods = _methods(evaluator, reference, winner, worst, [found[i] for i in worst])
    prompts = reference.prompt_set
    texts = [prompts.prompts[i] for i in worst]
    headings = [f"SSIM {shown(found[i], 3)}\n{text}" for i, text in zip(worst, texts, strict=True)]
    labelled = [(one.label, one.images) for one in methods]
    image_grid.samples(folder / files.SAMPLES_GRID, labelled, headings)
    samples = folder / files.SAMPLES
    kept = worst[: CLIPS if methods[0].images.ndim == 5 else COUNT]
    rows = []
    for place, i in enumerate(kept):
        for method in methods:
            name = save_image(samples / f"{place:02}_{method.name}", method.images[place])
            what = (place, method.name, name, method.ssims[place], method.plan.schedule)
            rows.append((*what, prompts.seeds[i], texts[place]))
    columns = ["place", "method", "file", "ssim", "schedule", "seed", "prompt"]
    write_text(samples / files.SAMPLES_TABLE, csv_text(pd.DataFrame(rows, columns=columns)))


def _are_there(path: Path, winner: Trial, ssims: Sequence[float]) -> bool:
    """Whether an earlier run has shown this winner; the table is written last of all."""
    table = path / files.SAMPLES / files.SAMPLES_TABLE
    if not table.is_file() or not (path / files.SAMPLES_GRID).is_file():
        return False
    try:
        shown = pd.read_csv(table)
        own = shown[shown["method"] == "EC-Diff"]
        kept = all((table.parent / name).is_file() for name in shown["file"])
        same = set(own["schedule"]) == {winner.plan.schedule} and len(own) > 0
        return kept and same and bool((own["ssim"] - ssims[: len(own)]).abs().max() < SAME_SSIM)
    except (ValueError, KeyError):  # damaged: written anew
        return False


def _methods(
    evaluator: Evaluator, reference: Reference, winner: Trial, rows: Sequence[int], ssims: Sequence[float]
) -> list[GridRow]:
    def with_params(params: ECDiffParams) -> PlannedCandidate:
        return evaluator.resolve(replace(winner.candidate, params=params))

    plan = winner.plan
    alone = with_params(ECDiffParams.cloud_only(plan.num_steps))
    hybrid = with_params(ECDiffParams.hybrid(plan.handoff_step))
    cloud = torch.stack([reference.prompts[i].cloud for i in rows]).float()
    edge = torch.stack([reference.prompts[i].edge for i in rows]).float()
    both = evaluator.images(hybrid, rows)
    return [
        GridRow("cloud", alone.plan, cloud, [1.0] * len(rows)),
        GridRow("edge", with_params(ECDiffParams.edge_only()).plan, edge, ssim(edge, cloud).tolist()),
        GridRow("HybridSD", hybrid.plan, both, ssim(both, cloud).tolist()),
        GridRow("EC-Diff", plan, evaluator.images(winner.config, rows), ssims),
    ]


def save_image(stem: Path, image: Tensor) -> str:
    """An image as PNG, a video as a looping WebP; the file's name.

    Args:
        stem: the path without its suffix.
        image: RGB in 0 … 1, shape (3, height, width), of a video (frames, 3, height, width).
    """
    values = (image.float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
    video = values.ndim == 4
    path = stem.with_name(stem.name + (".webp" if video else ".png"))
    with replacing(path) as part:
        if video:
            first, *others = [Image.fromarray(frame) for frame in values]
            shown = {"duration": round(1000 / FPS), "loop": 0, "quality": CLIP_QUALITY}
            first.save(part, format="WEBP", save_all=True, append_images=others, **shown)
        else:
            Image.fromarray(values).save(part, format="PNG")
    return path.name


def write_edge_alone(folder: Path, reference: Reference, progress: Progress) -> None:
    """edge_alone.csv: SSIM and PSNR of the edge's own images, a row a prompt with the models' own runs."""
    path = folder / files.EDGE_ALONE
    if path.is_file():
        return
    progress.start_task("edge's own images against the cloud's", len(reference.prompts))
    rows = []
    for key, one in zip(reference.prompt_set.keys, reference.prompts, strict=False):
        edge, cloud = one.edge.float()[None], one.cloud.float()[None]
        rows.append((key, ssim(edge, cloud).item(), psnr(edge, cloud).item()))
        progress.prompts_done(1)
    progress.end_stage()
    write_text(path, pd.DataFrame(rows, columns=["prompt", "ssim", "psnr"]).to_csv(index=False))
