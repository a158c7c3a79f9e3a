"""Small images of a few prompts of every config, for those who look at a study's trials."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ecdiff_core.io.atomic_files import replacing
from ecdiff_tune.evaluation.candidate import ConfigKey

FIRST = 4
"""Prompts that are shown, the first ones of the calibration set."""
LARGEST = 256
"""Pixels a side."""
GAP = 2


@dataclass(frozen=True)
class Thumbnails:
    """Kept as files from when a config is measured, so that no image is generated for being looked at."""

    folder: Path

    def keep(self, key: ConfigKey, rows: Sequence[int], images: Tensor) -> None:
        """Keep those of the first prompts.

        Args:
            rows: the prompts, by index.
            images: RGB in 0 … 1, shape (rows, 3, height, width), of videos (rows, frames, 3, …).
        """
        for row, image in zip(rows, images, strict=True):
            if row < FIRST:
                with replacing(self._path(key, row), ".png") as part:
                    _small(image).save(part)

    def sheet(self, key: ConfigKey, cloud: Sequence[Tensor]) -> Path | None:
        """A PNG with a column a prompt: the cloud's image, and this config's below; None without images.

        Args:
            cloud: the cloud's images of the first prompts.
        """
        there = [(row, self._path(key, row)) for row in range(min(FIRST, len(cloud)))]
        columns = []
        for row, path in there:
            if path.is_file():
                with Image.open(path) as kept:
                    columns.append((_small(cloud[row]), kept.copy()))
        if not columns:
            return None
        width, height = columns[0][0].size
        sheet = Image.new("RGB", (len(columns) * (width + GAP) - GAP, 2 * height + GAP), "white")
        for number, column in enumerate(columns):
            for line, image in enumerate(column):
                sheet.paste(image, (number * (width + GAP), line * (height + GAP)))
        path = self._folder(key) / "cloud_above_trial.png"
        with replacing(path, ".png") as part:
            sheet.save(part)
        return path

    def _folder(self, key: ConfigKey) -> Path:
        return self.folder / hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    def _path(self, key: ConfigKey, row: int) -> Path:
        return self._folder(key) / f"{row}.png"


def _small(image: Tensor) -> Image.Image:
    """As 8-bit RGB, of a video the middle frame, at most ``LARGEST`` pixels a side."""
    still = image[len(image) // 2] if image.ndim == 4 else image
    values = torch.nan_to_num(still.float()).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    small = Image.fromarray(values.cpu().numpy())
    small.thumbnail((LARGEST, LARGEST))
    return small
