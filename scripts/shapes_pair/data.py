"""Training data of the embedded pair: scenes, images and captions, drawn once and kept as an array."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ecdiff_core.shapes.grammar import Scene, scenes
from shapes_pair.draw import SIZE, draw

SCENE_SEED = 0
DRAWING_SEED = 1

S = TypeVar("S")


def training_scenes(count: int) -> list[Scene]:
    """The first ``count`` scenes of the training side of the split."""
    return list(itertools.islice(scenes(SCENE_SEED), count))


def training_images(folder: Path, scene_list: list[Scene]) -> NDArray[np.uint8]:
    """Images of the scenes, shape (n, 64, 64, 3), memory-mapped from ``folder`` after the first call."""
    path = folder / f"images_{len(scene_list)}.npy"
    if not path.exists():
        rng = np.random.default_rng(DRAWING_SEED)
        images = np.empty((len(scene_list), SIZE, SIZE, 3), np.uint8)
        for i, scene in enumerate(tqdm(scene_list, desc="draw", mininterval=5)):
            images[i] = np.round(draw(scene, rng) * 255)
        part = path.with_suffix(".part.npy")
        np.save(part, images)
        part.rename(path)
    return np.load(path, mmap_mode="r")


def drawings(
    path: Path, scene_list: list[S], draw: Callable[[S, np.random.Generator], NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """``draw(scene, rng)`` of every scene as 0 … 255, memory-mapped from ``path`` after the first call.

    All processors draw; scene i has a generator of its own, so their number changes nothing.
    """
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(_draw_some, itertools.repeat(draw), *_chunks(scene_list))
            part = path.with_suffix(".part.npy")
            np.save(part, np.concatenate(list(tqdm(drawn, desc=path.stem, mininterval=5))))
        part.rename(path)
    return np.load(path, mmap_mode="r")


def _chunks(scene_list: list[S], size: int = 250) -> tuple[list[int], list[list[S]]]:
    firsts = list(range(0, len(scene_list), size))
    return firsts, [scene_list[first : first + size] for first in firsts]


def _draw_some(
    draw: Callable[[S, np.random.Generator], NDArray[np.float32]], first: int, scene_list: list[S]
) -> NDArray[np.uint8]:
    rngs = (np.random.default_rng((DRAWING_SEED, first + i)) for i in range(len(scene_list)))
    drawn = [draw(scene, rng) for scene, rng in zip(scene_list, rngs, strict=True)]
    return np.round(np.stack(drawn) * 255).astype(np.uint8)
