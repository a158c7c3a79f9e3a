"""The reader of clips must say yes to true drawings, and no to everything else."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ecdiff_core.shapes_video.grammar import MOTIONS, ROUND_SHAPES, MovingObject, MovingScene, scenes
from shapes_video.draw import draw
from shapes_video.read import Reading, read

REVERSED = {
    "moving left": "moving right",
    "moving right": "moving left",
    "moving up": "moving down",
    "moving down": "moving up",
    "growing": "shrinking",
    "shrinking": "growing",
    "resting": "resting",
}

Drawn = list[tuple[MovingScene, NDArray[np.floating]]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    rng = np.random.default_rng(1)
    return [(scene, draw(scene, rng)) for scene in itertools.islice(scenes(3, held_out=True), 40)]


def with_first(scene: MovingScene, moving: MovingObject) -> MovingScene:
    return replace(scene, objects=(moving, *scene.objects[1:]))


def test_true_drawings_are_right(drawn: Drawn) -> None:
    for scene, clip in drawn:
        found = read(clip, scene)
        assert found.background_right
        assert all(o.object_and_motion_right and o.shape_right for o in found.objects), scene.caption()


def test_blur_and_noise_do_not_matter(drawn: Drawn) -> None:
    rng = np.random.default_rng(2)
    for scene, clip in drawn[:12]:
        blurred = (clip + np.roll(clip, 1, axis=1) + np.roll(clip, 1, axis=2)) / 3
        noisy = np.clip(blurred + rng.normal(0, 0.02, clip.shape), 0, 1)
        assert all(o.object_and_motion_right for o in read(noisy, scene).objects), scene.caption()


def test_another_motion_is_wrong(drawn: Drawn) -> None:
    for scene, clip in drawn[:12]:
        first = scene.objects[0]
        for motion in MOTIONS:
            if motion == first.motion or (motion == "turning" and first.shape in ROUND_SHAPES):
                continue
            found = read(clip, with_first(scene, replace(first, motion=motion))).objects[0]
            assert not found.motion_right, (scene.caption(), motion)


def test_backwards_is_the_other_motion(drawn: Drawn) -> None:
    for scene, clip in drawn[:20]:
        first = scene.objects[0]
        if first.motion == "turning":  # a square that turns back looks the same
            continue
        motion = REVERSED[first.motion]
        assert read(clip[::-1], with_first(scene, replace(first, motion=motion))).objects[0].motion_right


def test_another_color_or_shape_is_wrong(drawn: Drawn) -> None:
    for scene, clip in drawn[:20]:
        first = scene.objects[0]
        taken = {o.color for o in scene.objects}
        color = next(c for c in ("red", "green", "blue") if c not in taken)
        assert not read(clip, with_first(scene, replace(first, color=color))).objects[0].color_right
        shape = "ring" if first.shape != "ring" else "cross"
        assert not read(clip, with_first(scene, replace(first, shape=shape))).objects[0].shape_right


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0, np.nan])
def test_an_empty_clip_shows_nothing(drawn: Drawn, fill: float) -> None:
    found: Reading = read(np.full((9, 64, 64, 3), fill), drawn[0][0])
    assert not any(o.color_right or o.shape_right or o.motion_right for o in found.objects)


def test_an_object_that_vanishes_is_not_right(drawn: Drawn) -> None:
    scene, clip = drawn[0]
    gone = clip.copy()
    gone[7] = gone[7].min()
    assert not any(o.color_right for o in read(gone, scene).objects)


def test_images_are_refused(drawn: Drawn) -> None:
    with pytest.raises(ValueError, match=r"\(9, 64, 64, 3\), got \(64, 64, 3\)"):
        read(drawn[0][1][0], drawn[0][0])
