"""Clips by VBench's dimensions: true drawings have all of them, and each is lost by what it is about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vbench
from ecdiff_core.shapes_video.grammar import MovingObject, MovingScene
from eval_shapes_video import write_sheet
from shapes_video.dimensions import judge, write
from shapes_video.draw import draw

RESTING = MovingScene((MovingObject("square", "red", "resting"),), "in the center", "dark", "plain")
MOVING = MovingScene(
    (MovingObject("star", "blue", "moving up"), MovingObject("ring", "green", "resting")),
    "from left to right",
    "light",
    "striped",
)
OF_ONE = {"scene", "temporal_flickering", "object_class", "color"}
OF_TWO = {"scene", "dynamic_degree", "multiple_objects", "spatial_relationship"}

Clip = NDArray[np.floating]


def drawn(scene: MovingScene) -> Clip:
    return draw(scene, np.random.default_rng(0))


def judged(clip: Clip, scene: MovingScene) -> dict[str, float]:
    return {name: found[scene.caption()] for name, found in judge([clip], [scene]).items()}


def test_true_drawings_have_every_dimension_of_their_scene() -> None:
    assert judged(drawn(RESTING), RESTING) == dict.fromkeys(OF_ONE, 1.0)
    assert judged(drawn(MOVING), MOVING) == dict.fromkeys(OF_TWO, 1.0)


def test_flickering_is_the_mean_difference_of_frames() -> None:
    clip = np.minimum(drawn(RESTING), 0.9)
    clip[1::2] += 0.1
    assert judged(clip, RESTING)["temporal_flickering"] == pytest.approx(0.9)


def test_a_clip_that_stands_still_is_not_dynamic() -> None:
    still = np.repeat(drawn(MOVING)[4:5], 9, axis=0)
    assert judged(still, MOVING) == {**dict.fromkeys(OF_TWO, 1.0), "dynamic_degree": 0.0}


def test_sides_changed_is_another_relation() -> None:
    found = judged(drawn(MOVING)[:, :, ::-1], MOVING)
    assert (found["spatial_relationship"], found["multiple_objects"]) == (0, 0)


def test_results_are_read_as_vbenchs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = [RESTING, MOVING]
    values = judge([drawn(RESTING), drawn(RESTING)], scenes)
    path = tmp_path / "ours_eval_results.json"
    write(values, path)
    score, (first, _) = json.loads(path.read_text())["scene"]
    assert (score, first["video_path"]) == (0.5, f"{RESTING.caption()}-0.mp4")
    assert vbench.main(["score", "--partial", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| method | temporal flickering | dynamic degree | object class | multiple objects | color "
        "| spatial relationship | scene |",
        "|---|---|---|---|---|---|---|---|",
        "| ours | 100.00 | 0.00 | 100.00 | 0.00 | 100.00 | 0.00 | 50.00 |",
    ]


def test_a_sheet_of_fewer_clips_than_it_has_room_for(tmp_path: Path) -> None:
    clips = {name: torch.full((2, 9, 3, 64, 64), 0.5) for name in ("cloud", "edge", "hybrid_10")}
    write_sheet(clips, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 9 * 66, 2 * 6 * 66)
