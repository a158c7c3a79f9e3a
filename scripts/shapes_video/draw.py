"""Draws scenes in motion as clips of nine 64x64 RGB frames, with the image pair's shapes and backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.shapes_video.grammar import MovingScene
from shapes_pair.draw import SIZE, background, paint, pattern, shape_distance

FRAMES = 9
RADIUS = {1: 13.5, 2: 9.5}
"""Radius in pixels halfway through a clip, by the number of objects."""

TRAVEL = {1: 22.0, 2: 12.0}
"""Pixels from the first frame to the last of an object that moves, by the number of objects."""

GROWTH = 2.0
"""Radius in the last frame over that in the first, of an object that grows; inverted when it shrinks."""

TURN_DEGREES = 45.0
"""From the first frame to the last, clockwise."""

JITTER = 2.0
"""The most that a drawing moves an object along either axis, in pixels."""

_CENTERS = {
    "in the center": ((32, 32),),
    "from left to right": ((17, 32), (47, 32)),
    "from top to bottom": ((32, 17), (32, 47)),
}
_DIRECTIONS = {
    "moving left": (-1, 0),
    "moving right": (1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
}
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Path:
    """Where an object is in every frame: centres (frames, 2) as x, y, radii (frames,), angles in radians."""

    centers: Array
    radii: Array
    angles: Array


def path(scene: MovingScene, index: int) -> Path:
    """The nominal path of object ``index``; a drawing moves it as a whole by up to ``JITTER``."""
    count, motion = len(scene.objects), scene.objects[index].motion
    time = np.linspace(-0.5, 0.5, FRAMES, dtype=np.float32)
    direction = np.array(_DIRECTIONS.get(motion, (0, 0)), np.float32)
    start = np.array(_CENTERS[scene.layout][index], np.float32)
    growth = {"growing": 1.0, "shrinking": -1.0}.get(motion, 0.0)
    return Path(
        centers=start + TRAVEL[count] * time[:, None] * direction,
        radii=RADIUS[count] * GROWTH ** (growth * time),
        angles=np.radians(TURN_DEGREES) * (time + 0.5) * (motion == "turning"),
    )


def draw(scene: MovingScene, rng: np.random.Generator) -> Array:
    """Draw a clip; rng decides what the caption leaves open (exact places and sizes, the texture's phase).

    Returns RGB in 0 … 1, shape (9, 64, 64, 3), float32.
    """
    still = background(scene.tone, pattern(scene.pattern, *rng.uniform(0, 24, 2)))
    clip = np.repeat(still[None], FRAMES, axis=0)
    for i, moving in enumerate(scene.objects):
        way = path(scene, i)
        radii = (way.radii * rng.uniform(0.95, 1.05))[:, None, None]
        cx, cy = (way.centers + rng.uniform(-JITTER, JITTER, 2)).T[:, :, None, None]
        x, y = _X - cx, _Y - cy
        cos, sin = np.cos(way.angles)[:, None, None], np.sin(way.angles)[:, None, None]
        # A turned and resized shape is the upright one of radius 1 seen from turned and resized offsets.
        across, down = (cos * x + sin * y) / radii, (cos * y - sin * x) / radii
        distance = shape_distance(moving.shape, across, down, 1.0) * radii
        clip = paint(clip, moving.color, distance, (x + y) / (2 * radii))
    return clip.astype(np.float32)
