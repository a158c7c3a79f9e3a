"""Whether a file of weights is whole, by its first bytes and its size: no tensor is read."""

from __future__ import annotations

import json
from pathlib import Path

from ecdiff_core.errors import PairError

_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that git leaves in a file's place where git-lfs did not fetch it."""
_LENGTH = 8
_AGAIN = "Fetch it again."
"""Bytes of a .safetensors file that tell the length of its header."""


def check_header(path: Path) -> None:
    """Refuse a file of weights that is not what its name says, or ends too early.

    Raises:
        PairError: it cannot be read, is git-lfs's pointer, empty, or a .safetensors file whose header is
            damaged or tells of more or fewer bytes than there are.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    if not size:
        raise PairError(f"{path} is empty.", key=str(path), advice=_AGAIN)
    if path.suffix != ".safetensors":
        return
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = file.read(length) if length <= size - _LENGTH else b""
    try:
        tree = json.loads(header)
        data = max([0, *(one["data_offsets"][1] for name, one in tree.items() if name != "__metadata__")])
        expected = _LENGTH + length + int(data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        line = f"{path} is damaged: its header cannot be read."
        raise PairError(line, key=str(path), advice=_AGAIN) from error
    if size != expected:
        line = f"{path} is not whole: it has {size:,} of {expected:,} bytes."
        raise PairError(line, key=str(path), got=size, expected=str(expected), advice=_AGAIN)


def refuse_pointer(path: Path) -> None:
    """Refuse what git leaves in the place of a file that git-lfs is to fetch.

    Raises:
        PairError: it is that, or cannot be read: a folder, a link to nothing (a hub's cache that was moved).
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
    except OSError as error:
        line = f"Cannot read {path}: {error.strerror}."
        raise PairError(line, key=str(path), advice=_AGAIN) from error
    if begin == _POINTER:
        raise PairError(
            f"{path} is a git-lfs pointer of some 130 bytes, not the file itself.",
            key=str(path),
            got="git-lfs pointer",
            advice="Run `git lfs pull` in its folder, or fetch it again with huggingface-cli download.",
        )
