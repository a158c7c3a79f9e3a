"""Draws scenes of the grammar as 64x64 RGB images: antialiased, shaded shapes on textured backgrounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.shapes.grammar import Scene

SIZE = 64
"""Side of an image in pixels."""

RGB = {
    "red": (0.86, 0.15, 0.15),
    "orange": (0.97, 0.53, 0.08),
    "yellow": (0.96, 0.89, 0.18),
    "green": (0.18, 0.68, 0.22),
    "cyan": (0.18, 0.80, 0.84),
    "blue": (0.16, 0.30, 0.90),
    "purple": (0.54, 0.18, 0.76),
    "pink": (0.98, 0.56, 0.78),
}
TONE_RGB = {  # (valley, crest) of the background's pattern
    "dark": ((0.12, 0.13, 0.17), (0.30, 0.31, 0.36)),
    "light": ((0.72, 0.71, 0.68), (0.95, 0.94, 0.91)),
}
RADIUS = {  # by number of objects: (small, large), pixels
    1: (13.0, 20.0),
    2: (9.0, 13.5),
    3: (7.0, 10.0),
}
_CENTERS = {
    "in the center": ((32, 32),),
    "on the left": ((21, 32),),
    "on the right": ((43, 32),),
    "at the top": ((32, 21),),
    "at the bottom": ((32, 43),),
    "left of": ((17, 32), (47, 32)),
    "above": ((32, 17), (32, 47)),
    "from left to right": ((11, 32), (32, 32), (53, 32)),
    "from top to bottom": ((32, 11), (32, 32), (32, 53)),
}
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5

Array = NDArray[np.float32]


def centers(scene: Scene) -> tuple[tuple[int, int], ...]:
    """The nominal (x, y) centre of every object, in pixels; a drawing moves them by up to ``jitter``."""
    return _CENTERS[scene.layout]


def radius(scene: Scene, index: int) -> float:
    """The nominal radius of object ``index`` in pixels."""
    return RADIUS[len(scene.objects)][scene.objects[index].size == "large"]


def jitter(scene: Scene) -> float:
    """The most that a drawing moves an object along either axis, in pixels."""
    return 1.5 if len(scene.objects) == 3 else 2.5


def _smooth(distance: Array) -> Array:
    """Coverage of a pixel from its signed distance (negative inside), antialiased over one pixel."""
    return np.clip(0.5 - distance, 0.0, 1.0)


def _polygon(x: Array, y: Array, corners: Array) -> Array:
    """Signed distance to a closed polygon (negative inside), corners of shape (n, 2)."""
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -nearest, nearest)


def _angles(n: int, start: float) -> Array:
    return (start + 2 * np.pi * np.arange(n) / n).astype(np.float32)


def shape_distance(shape: str, x: Array, y: Array, r: float) -> Array:
    """Signed distance in pixels from offsets (x, y) to ``shape`` of radius r about the origin."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72 * r) - 0.28 * r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.84 * r
    if shape == "cross":
        a, b = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(a - r, b - 0.34 * r), np.maximum(a - 0.34 * r, b - r))
    if shape == "triangle":
        angles = _angles(3, -np.pi / 2)
        return _polygon(x, y - 0.15 * r, 1.12 * r * np.stack([np.cos(angles), np.sin(angles)], 1))
    if shape == "star":
        angles = _angles(10, -np.pi / 2)
        reach = np.where(np.arange(10) % 2 == 0, 1.1 * r, 0.5 * r)[:, None]
        return _polygon(x, y, reach * np.stack([np.cos(angles), np.sin(angles)], 1))
    raise ValueError(f"Expected one of the grammar's shapes, got {shape!r}.")


def pattern(name: str, dx: float = 0.0, dy: float = 0.0) -> Array:
    """A background's texture in 0 … 1, shape (64, 64), moved by (dx, dy) pixels."""
    x, y = _X + dx, _Y + dy
    if name == "plain":
        return np.full((SIZE, SIZE), 0.5, np.float32)
    if name == "shaded":
        return _Y / SIZE
    if name == "striped":
        return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * x / 12), 0, 1)
    if name == "checked":
        return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * x / 20) * np.sin(2 * np.pi * y / 20), 0, 1)
    if name == "dotted":
        return _smooth(np.hypot(x % 12 - 6, y % 12 - 6) - 3.0)
    if name == "wavy":
        return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * (y + 2.5 * np.sin(2 * np.pi * x / 24)) / 12), 0, 1)
    raise ValueError(f"Expected one of the grammar's patterns, got {name!r}.")


def draw(scene: Scene, rng: np.random.Generator) -> Array:
    """Draw a scene; rng decides what the caption leaves open (exact places, phases, light).

    Returns RGB in 0 … 1, shape (64, 64, 3), float32.
    """
    image = background(scene.tone, pattern(scene.pattern, *rng.uniform(0, 24, 2)))
    for i, (obj, (cx, cy)) in enumerate(zip(scene.objects, centers(scene), strict=True)):
        r = radius(scene, i) * rng.uniform(0.94, 1.06)
        x, y = (_X - cx, _Y - cy) - rng.uniform(-jitter(scene), jitter(scene), 2)[:, None, None]
        image = paint(image, obj.color, shape_distance(obj.shape, x, y, r), (x + y) / (2 * r))
    return image.astype(np.float32)


def paint(image: Array, color: str, distance: Array, slope: Array) -> Array:
    """A lit body with a darker rim over ``image`` (…, 64, 64, 3).

    Args:
        distance: signed distance to its outline in pixels, negative inside, shape (…, 64, 64).
        slope: -1 where the light is full, 1 in the shade, shape (…, 64, 64).
    """
    light = 1.0 - 0.28 * np.clip(slope, -1, 1)
    rim = 1.0 - 0.4 * _smooth(-distance - 1.2)
    body = np.clip(np.asarray(RGB[color], np.float32) * (light * rim)[..., None], 0, 1)
    cover = _smooth(distance)[..., None]
    return image * (1 - cover) + body * cover


def background(tone: str, texture: Array) -> Array:
    """A texture in 0 … 1, shape (64, 64), in a tone's colours, shape (64, 64, 3)."""
    low, high = (np.asarray(c, np.float32) for c in TONE_RGB[tone])
    return low + (high - low) * texture[..., None]
