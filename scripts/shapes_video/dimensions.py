"""The dimensions of VBench (Huang et al. 2024) that clips of the grammar have without a network to judge.

What VBench finds by detectors and captioners, the reader of clips finds by colours and places. As there, a
dimension has clips of its own: flickering those in which nothing moves, colour those of one object, relations
those of two. Consistency, smoothness, aesthetics, imaging quality, styles and human action are judged by
networks that know natural videos alone: they are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.shapes_video.grammar import MovingScene
from shapes_video.read import STILL, Reading, read

Values = dict[str, dict[str, float]]
"""By dimension, then by caption: a fraction."""


def judge(clips: Sequence[NDArray[np.floating]], scenes: Sequence[MovingScene]) -> Values:
    """Clips, RGB in 0 … 1 of shape (9, 64, 64, 3), by every dimension that applies to their scene."""
    found: Values = {}
    for clip, scene in zip(clips, scenes, strict=True):
        for name, value in _of_clip(clip, scene, read(clip, scene)).items():
            found.setdefault(name, {})[scene.caption()] = float(value)
    return found


def _of_clip(clip: NDArray[np.floating], scene: MovingScene, reading: Reading) -> Mapping[str, float]:
    objects = reading.objects
    found: dict[str, float] = {"scene": reading.background_right}
    if all(one.motion == "resting" for one in scene.objects):
        found["temporal_flickering"] = 1 - float(np.abs(np.diff(clip, axis=0)).mean())
    else:
        found["dynamic_degree"] = any(one.motion not in STILL for one in objects)
    if len(objects) == 1:
        return found | {"object_class": objects[0].shape_right, "color": objects[0].color_right}
    both = all(one.color_right for one in objects)
    return found | {"multiple_objects": both, "spatial_relationship": reading.layout_right}


def write(values: Values, path: Path) -> None:
    """As VBench writes its ``*_eval_results.json``: the mean of a dimension, and a result a video."""
    tree = {
        name: [
            fmean(by_caption.values()),
            [
                {"video_path": f"{caption}-0.mp4", "video_results": value}
                for caption, value in by_caption.items()
            ],
        ]
        for name, by_caption in values.items()
    }
    write_text(path, json.dumps(tree, indent=1) + "\n")
