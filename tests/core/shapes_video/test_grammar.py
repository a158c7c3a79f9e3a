"""The grammar of moving scenes and its drawing."""

from __future__ import annotations

import itertools

import numpy as np

from ecdiff_core.shapes_video.grammar import ROUND_SHAPES, MovingObject, MovingScene, is_held_out, scenes
from shapes_video.draw import FRAMES, GROWTH, RADIUS, TRAVEL, TURN_DEGREES, draw, path

FIRST_TRAINED = [
    "from top to bottom a purple triangle resting and a red star growing, on a light dotted background",
    "a yellow triangle moving up, on a light dotted background",
]
FIRST_HELD_OUT = [
    "from top to bottom a red cross moving down and a cyan square moving right, on a light plain background",
    "from left to right a yellow square moving up and a green square shrinking, on a dark shaded background",
]


def first(count: int, seed: int = 0, held_out: bool = False) -> list[MovingScene]:
    return list(itertools.islice(scenes(seed, held_out), count))


def lone(motion: str, shape: str = "square") -> MovingScene:
    return MovingScene((MovingObject(shape, "red", motion),), "in the center", "dark", "plain")


def test_the_split_is_the_one_that_the_weights_were_trained_on() -> None:
    assert [s.caption() for s in first(2)] == FIRST_TRAINED
    assert [s.caption() for s in first(2, held_out=True)] == FIRST_HELD_OUT


def test_sides_share_no_scene_and_captions_name_scenes() -> None:
    trained, held_out = first(500), first(100, held_out=True)
    assert not set(trained) & set(held_out)
    assert len({s.caption() for s in trained}) == 500
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, held_out))


def test_round_shapes_never_turn_and_colors_differ() -> None:
    for scene in first(500):
        assert all(o.motion != "turning" for o in scene.objects if o.shape in ROUND_SHAPES)
        assert len({o.color for o in scene.objects}) == len(scene.objects)


def test_paths_are_what_captions_say() -> None:
    moved = path(lone("moving up"), 0).centers
    np.testing.assert_allclose(moved[-1] - moved[0], (0, -TRAVEL[1]))
    radii = path(lone("growing"), 0).radii
    assert np.isclose(radii[-1] / radii[0], GROWTH)
    assert np.isclose(radii[FRAMES // 2], RADIUS[1])
    assert np.isclose(path(lone("shrinking"), 0).radii[0], radii[-1])
    assert np.isclose(np.degrees(path(lone("turning"), 0).angles[-1]), TURN_DEGREES)
    still = path(lone("resting"), 0)
    assert np.ptp(still.centers, axis=0).max() == np.ptp(still.radii) == np.ptp(still.angles) == 0


def test_a_clip_rests_but_for_its_object() -> None:
    clip = draw(lone("moving right"), np.random.default_rng(0))
    assert clip.shape == (FRAMES, 64, 64, 3)
    assert 0 <= clip.min() <= clip.max() <= 1
    red = clip[..., 0] - clip[..., 2] > 0.3
    middles = [np.nonzero(frame)[1].mean() for frame in red]
    np.testing.assert_allclose(np.diff(middles), TRAVEL[1] / (FRAMES - 1), atol=0.5)  # whole pixels
    np.testing.assert_array_equal(clip[:, :8], clip[:1, :8].repeat(FRAMES, 0))


def test_a_turn_is_clockwise() -> None:
    """The corner of a triangle that points up points right of up afterwards."""
    clip = draw(lone("turning", "triangle"), np.random.default_rng(0))
    red = clip[..., 0] - clip[..., 2] > 0.3
    tops = [(np.nonzero(frame)[1][:5].mean() - np.nonzero(frame)[1].mean()) for frame in red[[0, -1]]]
    assert abs(tops[0]) < 1
    assert tops[1] > 4
