"""Training data of the embedded pair: scenes, pictures and captions, drawn once and kept as an array."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ecdiff_core.shapes.grammar import Scene, scenes
from shapes_pair.draw import SIZE, draw

SCENE_SEED = 0
DRAWING_SEED = 1


def training_scenes(count: int) -> list[Scene]:
    """The first ``count`` scenes of the training side of the split."""
    return list(itertools.islice(scenes(SCENE_SEED), count))


def training_pictures(folder: Path, scene_list: list[Scene]) -> NDArray[np.uint8]:
    """Pictures of the scenes, shape (n, 64, 64, 3), memory-mapped from ``folder`` after the first call."""
    path = folder / f"pictures_{len(scene_list)}.npy"
    if not path.exists():
        rng = np.random.default_rng(DRAWING_SEED)
        pictures = np.empty((len(scene_list), SIZE, SIZE, 3), np.uint8)
        for i, scene in enumerate(tqdm(scene_list, desc="draw", mininterval=5)):
            pictures[i] = np.round(draw(scene, rng) * 255)
        part = path.with_suffix(".part.npy")
        np.save(part, pictures)
        part.rename(path)
    return np.load(path, mmap_mode="r")
