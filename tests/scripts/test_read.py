"""The reader must say yes to true drawings, and no to everything else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from ecdiff_core.shapes.grammar import COLORS, LAYOUTS, PATTERNS, SHAPES, Scene, SceneObject, scenes
from shapes_pair.draw import SIZE, draw
from shapes_pair.read import Reading, read

Image = NDArray[np.floating]


class Shares(NamedTuple):
    """Shares that a reader finds right."""

    colors: float
    shapes: float
    sizes: float
    backgrounds: float


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Image]]:
    rng = np.random.default_rng(1)
    return [(scene, draw(scene, rng)) for scene in itertools.islice(scenes(3, held_out=True), 100)]


def shares(images: Sequence[Image], scene_list: Sequence[Scene]) -> Shares:
    readings = [read(p, s) for p, s in zip(images, scene_list, strict=True)]
    objects = [o for r in readings for o in r.objects]
    return Shares(
        colors=float(np.mean([o.color_right for o in objects])),
        shapes=float(np.mean([o.shape_right for o in objects])),
        sizes=float(np.mean([o.size_right for o in objects])),
        backgrounds=float(np.mean([r.background_right for r in readings])),
    )


def blurred(image: Image, sigma: float) -> Image:
    weights = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if a == axis else (0, 0) for a in range(3)], mode="edge")
        moved = [np.take(padded, range(i, i + SIZE), axis) for i in range(7)]
        image = np.tensordot(weights / weights.sum(), moved, axes=1)
    return image


def test_true_drawings_are_right(drawn: list[tuple[Scene, Image]]) -> None:
    found = shares([p for _, p in drawn], [s for s, _ in drawn])
    assert found.colors >= 0.99
    assert found.shapes >= 0.98
    assert found.sizes >= 0.99
    assert found.backgrounds >= 0.99


def test_blurred_and_noisy_drawings_are_right(drawn: list[tuple[Scene, Image]]) -> None:
    rng = np.random.default_rng(2)
    degraded = [np.clip(blurred(p, 0.7) + rng.normal(0, 0.02, p.shape), 0, 1) for _, p in drawn]
    found = shares(degraded, [s for s, _ in drawn])
    assert found.colors >= 0.98
    assert found.shapes >= 0.95
    assert found.backgrounds >= 0.98


def test_other_captions_are_wrong(drawn: list[tuple[Scene, Image]]) -> None:
    captions = [s for s, _ in drawn]
    found = shares([p for _, p in drawn], captions[1:] + captions[:1])
    assert found.colors <= 0.05
    assert found.shapes <= 0.15
    assert found.backgrounds <= 0.2  # one of twelve by chance


@pytest.mark.parametrize("level", [0.0, 0.21, 0.83, 1.0, np.nan])
def test_an_empty_image_has_no_objects(drawn: list[tuple[Scene, Image]], level: float) -> None:
    empty = np.full((SIZE, SIZE, 3), level)
    found = shares([empty] * 20, [s for s, _ in drawn[:20]])
    assert found[:3] == (0, 0, 0)


def other(choices: Sequence[str], value: str) -> str:
    return choices[(choices.index(value) + 1) % len(choices)]


def with_first(scene: Scene, change: Callable[[SceneObject], SceneObject]) -> Scene:
    return replace(scene, objects=(change(scene.objects[0]), *scene.objects[1:]))


def free_color(scene: Scene) -> str:
    return next(c for c in COLORS if c not in [o.color for o in scene.objects])


CHANGES: dict[str, tuple[Callable[[Scene], Scene], Callable[[Reading], bool]]] = {
    # What is changed in the caption, and which part of the reading must then be wrong.
    "color": (
        lambda s: with_first(s, lambda o: replace(o, color=free_color(s))),
        lambda r: r.objects[0].color_right,
    ),
    "shape": (
        lambda s: with_first(s, lambda o: replace(o, shape=other(SHAPES, o.shape))),
        lambda r: r.objects[0].shape_right,
    ),
    "size": (
        lambda s: with_first(s, lambda o: replace(o, size=other(("small", "large"), o.size))),
        lambda r: r.objects[0].size_right,
    ),
    "order": (
        lambda s: replace(s, objects=s.objects[::-1]),
        lambda r: r.objects[0].color_right and len(r.objects) > 1,
    ),
    "layout": (
        lambda s: replace(s, layout=other(LAYOUTS[len(s.objects)], s.layout)),
        lambda r: r.objects[0].color_right,
    ),
    "tone": (lambda s: replace(s, tone=other(("dark", "light"), s.tone)), lambda r: r.tone_right),
    "pattern": (lambda s: replace(s, pattern=other(PATTERNS, s.pattern)), lambda r: r.pattern_right),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_word_is_noticed(drawn: list[tuple[Scene, Image]], name: str) -> None:
    change, part_right = CHANGES[name]
    fooled = [part_right(read(image, change(scene))) for scene, image in drawn[:50]]
    assert np.mean(fooled) <= 0.02


def test_an_image_of_another_shape_is_refused(drawn: list[tuple[Scene, Image]]) -> None:
    with pytest.raises(ValueError, match=r"\(64, 64, 3\), got \(3, 64, 64\)"):
        read(drawn[0][1].transpose(2, 0, 1), drawn[0][0])
