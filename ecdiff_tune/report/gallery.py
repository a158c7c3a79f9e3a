"""The kept images as the page shows them: data URIs, and maps of how they differ from the cloud's."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from ecdiff_core.io.video import FPS
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.report.study_data import table
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError

GAIN = 4
"""By which differences are shown larger."""
SMALL = 128
"""Pixels a side up to which images stay lossless in the page."""
LARGEST = 768
CLIP_LARGEST = 360
"""Pixels of the longer side to which images and clips are scaled down."""
QUALITY = 88
"""Of WebP, 0 … 100."""

_COLOURS = np.array(
    [[12, 12, 18], [52, 32, 92], [138, 40, 103], [214, 77, 62], [251, 160, 48], [252, 240, 170]], np.float64
)
"""From no difference to a full one, dark to light, so that it reads without colour too."""

Frames = list[NDArray[np.uint8]]
"""One for an image, several for a video; each of shape (height, width, 3)."""


@dataclass(frozen=True)
class Shown:
    """One image: data URIs of it and of its difference to the cloud's, empty for the cloud's own."""

    method: str
    calls: str
    ssim: float
    image: str
    difference: str


@dataclass(frozen=True)
class PromptRow:
    """The images of one prompt."""

    prompt: str
    seed: int
    shown: tuple[Shown, ...]


def read(path: Path) -> list[PromptRow]:
    """The kept images of a study, none if there are none.

    Raises:
        StudyError: a file is missing or damaged.
    """
    folder = path / files.SAMPLES
    if not (folder / files.SAMPLES_TABLE).is_file():
        return []
    columns = ("place", "method", "file", "ssim", "schedule", "seed", "prompt")
    found = table(folder / files.SAMPLES_TABLE, columns, texts=("prompt",))
    rows = []
    for _, part in found.groupby("place", sort=True):
        frames = [_open(folder / str(name)) for name in part["file"]]
        shown = tuple(
            Shown(
                str(one.method),
                _calls(str(one.schedule)),
                float(str(one.ssim)),
                data_uri(_scaled(own)),
                "" if i == 0 else data_uri(_scaled(difference(own, frames[0]))),
            )
            for i, (one, own) in enumerate(zip(part.itertuples(), frames, strict=True))
        )
        rows.append(PromptRow(str(part["prompt"].iloc[0]), int(part["seed"].iloc[0]), shown))
    return rows


def _calls(schedule: str) -> str:
    plan = Plan.from_schedule(schedule)
    counts = {"cloud": plan.cloud_calls, "edge": plan.edge_calls}
    words = [f"{count} {side}" for side, count in counts.items() if count]
    return " + ".join(words)


def _open(path: Path) -> Frames:
    try:
        with Image.open(path) as file:
            return [
                np.asarray(frame.convert("RGB"))
                for frame in ImageSequence.Iterator(file)
                for _ in range(_repeats(frame))
            ]
    except (OSError, ValueError) as error:
        advice = f"Delete the folder {path.parent.name} and run tune again."
        raise StudyError(f"Cannot read the image {path}.", key=str(path), advice=advice) from error


def _repeats(frame: Image.Image) -> int:
    """How many equal frames a video's file keeps as this one."""
    frame.load()  # Pillow knows the duration of a frame only then
    return max(1, round(frame.info.get("duration", 0) * FPS / 1000))


def difference(frames: Frames, others: Frames) -> Frames:
    """|a - b|, the mean of the three colours times ``GAIN``, as colours from dark to light.

    >>> black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    >>> difference([black, white], [black, black])[1].tolist()
    [[[252, 240, 170]]]
    """
    found = []
    for one, other in zip(frames, others, strict=True):
        size = np.abs(one.astype(np.float64) - other).mean(axis=2) / 255 * GAIN
        at = np.clip(size, 0, 1) * (len(_COLOURS) - 1)
        below = np.minimum(at.astype(int), len(_COLOURS) - 2)
        share = (at - below)[..., None]
        colours = _COLOURS[below] * (1 - share) + _COLOURS[below + 1] * share
        found.append(colours.round().astype(np.uint8))
    return found


def _scaled(frames: Frames) -> list[Image.Image]:
    largest = LARGEST if len(frames) == 1 else CLIP_LARGEST
    images = [Image.fromarray(frame) for frame in frames]
    for image in images:
        image.thumbnail((largest, largest))  # leaves smaller ones as they are
    return images


def data_uri(images: list[Image.Image]) -> str:
    """A PNG of a small image, a WebP of a larger one, an endless WebP of several frames."""
    first, *others = images
    buffer = io.BytesIO()
    kind = "png" if not others and max(first.size) <= SMALL else "webp"
    if kind == "png":
        first.save(buffer, format="PNG", optimize=True)
    elif others:
        shown = {"duration": round(1000 / FPS), "loop": 0, "quality": QUALITY}
        first.save(buffer, format="WEBP", save_all=True, append_images=others, **shown)
    else:
        first.save(buffer, format="WEBP", quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
