"""Reads images back against their scene: is every object there, and is the background the named one?

No model is involved: the reader knows the drawing's colours, places, shapes and patterns, and compares
pixels with them. It tolerates blur and noise, since what it judges are decoded latents.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.shapes.grammar import COLORS, PATTERNS, SHAPES, SIZES, Scene
from shapes_pair.draw import RADIUS, RGB, SIZE, TONE_RGB, centers, jitter, pattern, radius, shape_distance

Array = NDArray[np.float32]

# What a pixel can be besides an index in COLORS.
_BACKGROUND, _OUTSIDE = -1, -2

SATURATED = 0.15
"""Largest minus smallest channel above which a pixel belongs to an object: backgrounds have at most 0.06."""

PLAUSIBLE_AREA = (0.6, 1.65)
"""Area of an object's colour over the area of its shape; the other size is off by a factor of 2.0 to 2.4."""

PLACE_TOLERANCE = 2.0
"""Pixels that an object's centroid may be off, along either axis, beyond what a drawing moves it."""

MINIMUM_IOU = 0.5
"""Below this overlap with its best template an object has no shape and no size at all."""

REACH = 1.1
"""Radius of the circle around the farthest-reaching shape (the star), in radii."""


@dataclass(frozen=True)
class ObjectReading:
    """What holds for one object of the scene."""

    color_right: bool
    """Its colour is the majority at its place, with about the area of its shape."""
    shape_right: bool
    size_right: bool

    @property
    def strictly_right(self) -> bool:
        """Colour, place, area, shape and size."""
        return self.color_right and self.shape_right and self.size_right


@dataclass(frozen=True)
class Reading:
    """What holds for an image: its objects in the scene's order, and its background."""

    objects: tuple[ObjectReading, ...]
    tone_right: bool
    pattern_right: bool

    @property
    def background_right(self) -> bool:
        """Tone and pattern."""
        return self.tone_right and self.pattern_right

    @property
    def strictly_right(self) -> bool:
        """Everything that the caption says."""
        return self.background_right and all(o.strictly_right for o in self.objects)


def read(image: NDArray[np.floating], scene: Scene) -> Reading:
    """Read an image, RGB in 0 … 1 of shape (64, 64, 3), against the scene that it should show."""
    if image.shape != (SIZE, SIZE, 3):
        raise ValueError(f"Expected an image of shape ({SIZE}, {SIZE}, 3), got {image.shape}.")
    pixels = np.nan_to_num(image.astype(np.float32))
    labels = color_labels(pixels)
    objects = tuple(_read_object(labels, scene, i) for i in range(len(scene.objects)))
    tone, texture = read_background(pixels.mean(axis=-1), ~grown(labels != _BACKGROUND))
    return Reading(objects, tone_right=tone == scene.tone, pattern_right=texture == scene.pattern)


def color_labels(pixels: Array) -> NDArray[np.int_]:
    """Index in COLORS of every pixel of (64, 64, 3) that belongs to an object, negative elsewhere."""
    saturated = pixels.max(axis=-1) - pixels.min(axis=-1) > SATURATED
    labels = np.full((SIZE, SIZE), _BACKGROUND)
    labels[saturated] = nearest_color(pixels[saturated])
    return labels


# The colours under the light and the rim's shadow that draw() gives them: it multiplies by 0.43 … 1.28.
_PALETTE = np.clip(np.linspace(0.4, 1.3, 10)[:, None, None] * np.array([RGB[c] for c in COLORS]), 0, 1)
_PALETTE = _PALETTE.reshape(-1, 3).astype(np.float32)


def nearest_color(pixels: Array) -> NDArray[np.int_]:
    """Index in COLORS of the nearest lit or shadowed colour to every pixel of (n, 3), shape (n,)."""
    distance = (_PALETTE**2).sum(axis=1) - 2 * pixels @ _PALETTE.T
    return distance.argmin(axis=1) % len(COLORS)


@lru_cache
def _templates(count: int) -> tuple[int, Array]:
    """Every shape and size, at every shift, of a scene of ``count`` objects, drawn about a window's centre.

    Returns half the window's side h and the templates' coverage in 0 … 1, shape (shapes, sizes, shifts, 4hh);
    the middle shift is none. Shifts go a pixel further than a drawing does.
    """
    most = 3 if count < 3 else 2
    shifts = range(-most, most + 1)
    half = math.ceil(REACH * RADIUS[count][1] + most) + 1
    y, x = np.mgrid[-half:half, -half:half].astype(np.float32) + 0.5
    coverage = [
        np.clip(0.5 - shape_distance(shape, x - dx, y - dy, r), 0, 1).ravel()
        for shape, r, dx, dy in itertools.product(SHAPES, RADIUS[count], shifts, shifts)
    ]
    return half, np.array(coverage, np.float32).reshape(len(SHAPES), len(SIZES), -1, 4 * half * half)


def _read_object(labels: NDArray[np.int_], scene: Scene, index: int) -> ObjectReading:
    obj, (cx, cy) = scene.objects[index], centers(scene)[index]
    half, templates = _templates(len(scene.objects))
    padded = np.pad(labels, half, constant_values=_OUTSIDE)
    window = padded[cy : cy + 2 * half, cx : cx + 2 * half].ravel()

    y, x = np.mgrid[-half:half, -half:half].reshape(2, -1) + 0.5
    near = np.hypot(x, y) < REACH * radius(scene, index) + jitter(scene)
    votes = np.bincount(window[near & (window >= 0)], minlength=len(COLORS))
    color = int(votes.argmax())
    mine = window == color
    # Pixels of other colours say nothing: another object may lie in front, and blurred rims mix colours.
    valid = mine | (window == _BACKGROUND)

    shape, size = SHAPES.index(obj.shape), SIZES.index(obj.size)
    unmoved = templates[shape, size, templates.shape[2] // 2]
    expected = unmoved * valid
    area = mine.sum() / max(1.0, expected.sum())
    moved = np.abs(_centroid(mine, x, y) - _centroid(expected, x, y)).max()
    plausible = (
        votes[color] > 0.5 * votes.sum()
        and PLAUSIBLE_AREA[0] < area < PLAUSIBLE_AREA[1]
        and moved < jitter(scene) + PLACE_TOLERANCE
    )

    best_shape, best_size, iou = _best_template(mine, valid, templates)
    return ObjectReading(
        color_right=bool(plausible and COLORS[color] == obj.color),
        shape_right=iou >= MINIMUM_IOU and best_shape == shape,
        size_right=iou >= MINIMUM_IOU and best_size == size,
    )


def _centroid(mass: NDArray[Any], x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.array([(mass * x).sum(), (mass * y).sum()]) / max(1.0, mass.sum())


def _best_template(
    mask: NDArray[np.bool_], valid: NDArray[np.bool_], templates: Array
) -> tuple[int, int, float]:
    """Shape index, size index and IoU over the valid pixels of the template that fits the mask best."""
    flat = templates.reshape(-1, templates.shape[-1])
    shared, total = (flat @ np.stack([mask, valid], axis=1).astype(np.float32)).T
    iou = shared / np.maximum(total + mask.sum() - shared, 1.0)
    shape, size, _ = np.unravel_index(iou.argmax(), templates.shape[:3])
    return int(shape), int(size), float(iou.max())


def grown(mask: NDArray[np.bool_], by: int = 2) -> NDArray[np.bool_]:
    """The mask and all pixels within ``by`` pixels along either axis: rims, which blur carries outwards."""
    for axis, _ in itertools.product((0, 1), range(by)):
        padded = np.pad(mask, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
        mask = mask | np.delete(padded, (-2, -1), axis) | np.delete(padded, (0, 1), axis)
    return mask


@lru_cache
def _textures() -> tuple[tuple[str, ...], Array, Array]:
    """All patterns at phases within a pixel of any drawing's: n names, textures and squares (n, 4096)."""
    unmoved = ((1, 1), (1, 1))
    phases = {  # (period, step) along x and y, pixels
        "striped": ((12, 1), (1, 1)),
        "checked": ((20, 2), (10, 2)),  # moving by 10 along both axes changes nothing
        "dotted": ((12, 1.5), (12, 1.5)),
        "wavy": ((24, 2), (12, 1.5)),
    }
    names, textures = [], []
    for name in PATTERNS:
        for dx, dy in itertools.product(*(np.arange(0, *p) for p in phases.get(name, unmoved))):
            names.append(name)
            textures.append(pattern(name, dx, dy).ravel())
    stacked = np.array(textures, np.float32)
    return tuple(names), stacked, stacked**2


def read_background(grey: Array, where: NDArray[np.bool_]) -> tuple[str, str]:
    """Tone and pattern of the best-fitting background over the pixels ``where``, of a grey image (64, 64).

    Textures are compared at the tone's contrast but without their means, so that a shift of brightness
    favours none; "plain" (no contrast) wins as soon as less than half of a pattern's contrast is there.
    """
    weights = where.ravel().astype(np.float32) / max(1, where.sum())
    level = float(grey.ravel() @ weights)
    middle = {tone: float(np.mean(ends)) for tone, ends in TONE_RGB.items()}
    tone = min(middle, key=lambda t: abs(middle[t] - level))
    low, high = (float(np.mean(end)) for end in TONE_RGB[tone])
    seen = (grey.ravel() - level) / (high - low)
    names, textures, squares = _textures()
    mean, match = (textures @ np.stack([weights, weights * seen], axis=1)).T
    variance = squares @ weights - mean**2
    return tone, names[int((variance - 2 * match).argmin())]
