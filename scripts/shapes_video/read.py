"""Reads clips back against their scene: is every object there, and does it move as its caption says?

No model is involved: the reader knows the drawing's colours, places and shapes, and compares pixels with
them. Colours in a scene differ: an object's pixels are those of its colour about its place. A motion is read
without knowing which one is meant: from where those pixels are, how many, and how the shape is turned, in the
first two frames against the last two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.shapes.grammar import COLORS, SHAPES
from ecdiff_core.shapes_video.grammar import ROUND_SHAPES, MovingScene
from shapes_pair.draw import SIZE, shape_distance
from shapes_pair.read import MINIMUM_IOU, PLACE_TOLERANCE, color_labels, grown, read_background
from shapes_video.draw import FRAMES, GROWTH, JITTER, RADIUS, TRAVEL, TURN_DEGREES, path

Array = NDArray[np.float32]

PLAUSIBLE_AREA = (0.55, 1.8)
"""Area of an object's colour over that of its shape, halfway through the clip."""

PRESENT_AREA = 0.35
"""The same in any frame: below, the object is gone."""

CLEAR_SHARE = 0.5
"""A motion is read where at least this share of its full extent is seen."""

BETWEEN_ENDS = (FRAMES - 2) / (FRAMES - 1)
"""Share of a motion that lies between the middle of the first two frames and that of the last two."""

PERIOD_DEGREES = {"square": 90, "cross": 90, "triangle": 120, "star": 72}
"""After a turn by so much a shape looks the same."""

STILL = ("resting", "gone")
"""What is read of an object that does not move: that it rests, or is not there in every frame."""

_HALF = 24  # of a window's side, pixels: the largest shape fits in
_DIRECTIONS = ("moving left", "moving right", "moving up", "moving down", "growing", "shrinking")


@dataclass(frozen=True)
class ObjectReading:
    """What holds for one object of the scene."""

    color_right: bool
    """Its colour is at its place with about the area of its shape halfway, and never gone."""
    shape_right: bool
    motion_right: bool
    motion: str
    """What is read, one of the grammar's motions or of ``STILL``."""

    @property
    def object_and_motion_right(self) -> bool:
        """Colour, place, area and motion."""
        return self.color_right and self.motion_right


@dataclass(frozen=True)
class Reading:
    """What holds for a clip: its objects in the scene's order, layout and background of its middle frame."""

    objects: tuple[ObjectReading, ...]
    background_right: bool
    layout_right: bool
    """All colours are there, and from left to right or from top to bottom as named, wherever that is."""


def read(clip: NDArray[np.floating], scene: MovingScene) -> Reading:
    """Read a clip, RGB in 0 … 1 of shape (9, 64, 64, 3), against the scene that it should show."""
    if clip.shape != (FRAMES, SIZE, SIZE, 3):
        raise ValueError(f"Expected a clip of shape ({FRAMES}, {SIZE}, {SIZE}, 3), got {clip.shape}.")
    frames = np.nan_to_num(clip.astype(np.float32))
    labels = np.stack([color_labels(frame) for frame in frames])
    objects = tuple(_read_object(labels, scene, i) for i in range(len(scene.objects)))
    middle = FRAMES // 2
    found = read_background(frames[middle].mean(axis=-1), ~grown(labels[middle] >= 0))
    return Reading(objects, found == (scene.tone, scene.pattern), _layout_right(labels[middle], scene))


def _layout_right(labels: NDArray[np.int_], scene: MovingScene) -> bool:
    masks = [labels == COLORS.index(one.color) for one in scene.objects]
    if not all(mask.any() for mask in masks):
        return False
    if len(masks) == 1:
        return True
    first, second = map(_centroid, masks)
    along, across = (second - first)[:: -1 if scene.layout == "from top to bottom" else 1]
    return bool(along > abs(across))


def _read_object(labels: NDArray[np.int_], scene: MovingScene, index: int) -> ObjectReading:
    count, moving, way = len(scene.objects), scene.objects[index], path(scene, index)
    middle = FRAMES // 2
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    center = way.centers[middle]
    reach = TRAVEL[count] / 2 + 1.5 * RADIUS[count] + JITTER
    near = np.hypot(x - center[0], y - center[1]) < reach
    masks = (labels == COLORS.index(moving.color)) & near

    at_place = np.hypot(x - center[0], y - center[1]) < RADIUS[count] + JITTER
    votes = np.bincount(labels[middle][at_place & (labels[middle] >= 0)], minlength=len(COLORS))
    expected = np.array([_area(moving.shape, float(r)) for r in way.radii])
    area = masks.sum(axis=(1, 2)) / expected
    off = np.abs(_centroid(masks[middle]) - center).max()
    motion = _read_motion(masks, moving.shape, count)
    return ObjectReading(
        color_right=bool(
            votes.any()
            and COLORS[votes.argmax()] == moving.color
            and PLAUSIBLE_AREA[0] < area[middle] < PLAUSIBLE_AREA[1]
            and area.min() > PRESENT_AREA
            and off < JITTER + PLACE_TOLERANCE
        ),
        shape_right=_best_shape(masks[middle], RADIUS[count]) == moving.shape,
        motion_right=motion == moving.motion,
        motion=motion,
    )


def _centroid(mask: NDArray[np.bool_]) -> Array:
    """x and y of the mask's middle, far outside where it is empty."""
    ys, xs = np.nonzero(mask)
    return np.array([xs.mean(), ys.mean()]) + 0.5 if len(xs) else np.full(2, -1e3)


def _read_motion(masks: NDArray[np.bool_], shape: str, count: int) -> str:
    """The motion of an object's pixels (frames, 64, 64), whatever the caption says."""
    areas = masks.sum(axis=(1, 2))
    if not areas.all():
        return STILL[1]
    first, last = ([masks[i] for i in ends] for ends in ((0, 1), (FRAMES - 2, FRAMES - 1)))
    moved = np.mean([_centroid(m) for m in last], axis=0) - np.mean([_centroid(m) for m in first], axis=0)
    dx, dy = moved / (TRAVEL[count] * BETWEEN_ENDS)
    growth = math.log(areas[-2:].mean() / areas[:2].mean()) / (2 * math.log(GROWTH) * BETWEEN_ENDS)
    shares = (-dx, dx, -dy, dy, growth, -growth)
    clearest = int(np.argmax(shares))
    if shares[clearest] > CLEAR_SHARE:
        return _DIRECTIONS[clearest]
    return "turning" if shape not in ROUND_SHAPES and _turns(first, last, shape) else STILL[0]


def _turns(first: list[NDArray[np.bool_]], last: list[NDArray[np.bool_]], shape: str) -> bool:
    """Whether the angle from the first frames to the last is nearer to a turn's than to none."""
    period = PERIOD_DEGREES[shape]
    angles = np.arange(0, period, 3)
    start, end = (
        angles[np.mean([_fits(m, shape, angles) for m in some], axis=0).argmax()] for some in (first, last)
    )

    def distance(a: float, b: float) -> float:
        return abs((a - b + period / 2) % period - period / 2)

    return distance(end - start, TURN_DEGREES * BETWEEN_ENDS) < distance(end - start, 0)


def _fits(mask: NDArray[np.bool_], shape: str, angles: NDArray[np.int_]) -> Array:
    """IoU of the mask with the shape of its area at its middle, at every angle in degrees."""
    radius = math.sqrt(mask.sum() / _area(shape, 1.0 * 10)) * 10
    window = _window(mask)
    templates = np.stack([_template(shape, round(2 * radius), int(angle)) for angle in angles])
    shared = (templates * window).sum(axis=(1, 2))
    return shared / (templates.sum(axis=(1, 2)) + window.sum() - shared)


def _best_shape(mask: NDArray[np.bool_], radius: float) -> str:
    """The shape that fits the mask best, upright or half turned; "" where none does."""
    if not mask.any():
        return ""
    turned = np.array([0, round(TURN_DEGREES / 2)])
    fits = {
        shape: _fits(mask, shape, turned[:1] if shape in ROUND_SHAPES else turned).max() for shape in SHAPES
    }
    best = max(fits, key=lambda shape: fits[shape])
    return best if fits[best] >= MINIMUM_IOU else ""


def _window(mask: NDArray[np.bool_]) -> Array:
    """The mask with its middle in the middle of a window."""
    x, y = np.round(_centroid(mask)).astype(int)
    padded = np.pad(mask, _HALF)
    return padded[y : y + 2 * _HALF, x : x + 2 * _HALF].astype(np.float32)


@lru_cache(maxsize=4096)
def _template(shape: str, diameter: int, degrees: int) -> Array:
    """Coverage in 0 … 1 of a turned shape whose middle is the window's."""
    radius, angle = max(diameter, 2) / 2, math.radians(degrees)
    y, x = np.mgrid[-_HALF:_HALF, -_HALF:_HALF].astype(np.float32) + 0.5
    middle = _middle(shape) * radius
    x, y = x - math.sin(angle) * -middle, y + math.cos(angle) * middle
    across, down = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return np.clip(0.5 - shape_distance(shape, across, down, radius), 0, 1)


@lru_cache
def _middle(shape: str) -> float:
    """How far the middle of a shape's area is below its origin, in radii."""
    y, x = np.mgrid[-200:200, -200:200].astype(np.float32) / 100
    inside = shape_distance(shape, x, y, 1.0) < 0
    return float(y[inside].mean())


@lru_cache(maxsize=4096)
def _area(shape: str, radius: float) -> float:
    """Pixels of a shape."""
    y, x = np.mgrid[-200:200, -200:200].astype(np.float32) / 100
    return float((shape_distance(shape, x, y, 1.0) < 0).sum()) * (radius / 100) ** 2
