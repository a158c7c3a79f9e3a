"""Small images of trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.thumbnails import FIRST, GAP, LARGEST, Thumbnails

KEY, OTHER = (ConfigKey(schedule, 0.3, "gradient", "") for schedule in ("2C1A", "3C1A"))


def test_the_cloud_above_the_trial(tmp_path: Path) -> None:
    kept = Thumbnails(tmp_path)
    cloud, trial = torch.zeros(3, 8, 12), torch.ones(3, 8, 12)
    kept.keep(KEY, range(6), torch.stack([trial] * 6))
    path = kept.sheet(KEY, [cloud] * 6)
    assert path is not None
    with Image.open(path) as sheet:
        assert sheet.size == (FIRST * 12 + (FIRST - 1) * GAP, 2 * 8 + GAP)
        assert sheet.getpixel((0, 0)) == (0, 0, 0)
        assert sheet.getpixel((0, 8 + GAP)) == (255, 255, 255)
    assert kept.sheet(OTHER, [cloud] * 6) is None


def test_only_what_was_measured_is_shown(tmp_path: Path) -> None:
    kept = Thumbnails(tmp_path)
    kept.keep(KEY, [2, 7], torch.rand(2, 3, 8, 8))
    path = kept.sheet(KEY, [torch.rand(3, 8, 8)] * 8)
    assert path is not None
    with Image.open(path) as sheet:
        assert sheet.size == (8, 2 * 8 + GAP)


@pytest.mark.parametrize("shape", [(3, 2 * LARGEST, LARGEST), (5, 3, 2 * LARGEST, LARGEST)])
def test_large_images_and_videos_become_small(tmp_path: Path, shape: tuple[int, ...]) -> None:
    kept = Thumbnails(tmp_path)
    images = torch.full((1, *shape), float("nan"))
    kept.keep(KEY, [0], images)
    path = kept.sheet(KEY, [images[0]])
    assert path is not None
    with Image.open(path) as sheet:
        assert sheet.size == (LARGEST // 2, 2 * LARGEST + GAP)
