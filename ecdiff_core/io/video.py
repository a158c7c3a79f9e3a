"""Video files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ecdiff_core.errors import OutputError, first_line
from ecdiff_core.io.atomic_files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

FPS = 8
"""Frames a second of the videos that CogVideoX was trained on."""


def check_writer() -> None:
    """See that videos can be written.

    Raises:
        OutputError: the packages of the extra ``video`` are missing.
    """
    missing = [name for name in ("imageio", "imageio_ffmpeg") if find_spec(name) is None]
    if missing:
        raise OutputError(
            f"Videos cannot be written without {' and '.join(missing)}.",
            key="imageio",
            expected=missing,
            advice="Run `pip install 'ecdiff[video]'`.",
        )


def save_mp4(path: Path, frames: Sequence[Image], fps: int = FPS) -> None:
    """Write an MP4 file, whole or not at all.

    Args:
        path: of the file.
        frames: of one size, its sides even.
        fps: frames a second.

    Raises:
        OutputError: the extra ``video`` is missing, there is no ffmpeg, or the file cannot be written.
    """
    check_writer()
    from diffusers.utils import export_to_video

    with replacing(path, suffix=".part.mp4") as part:
        try:
            export_to_video(list(frames), str(part), fps=fps, macro_block_size=2)
        except RuntimeError as error:  # imageio-ffmpeg's word for a missing ffmpeg
            raise OutputError(f"Cannot write {path}: {first_line(error)}.", key=str(path)) from error
