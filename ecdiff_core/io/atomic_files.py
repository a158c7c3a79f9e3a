"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecdiff_core.errors import OutputError


@contextmanager
def replacing(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed to ``path`` at the end, deleted on an error.

    The folder is made if needed. ``suffix`` ends the temporary name, for writers that go by it.

    Raises:
        OutputError: the folder cannot be made, or the file not be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.", key=str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
