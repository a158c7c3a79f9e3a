"""Digests of large files, remembered from run to run while path, size and times stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from ecdiff_core.errors import OutputError
from ecdiff_core.io.atomic_files import write_text

CACHE_VARIABLE = "ECDIFF_CACHE"
"""Environment variable: the folder for what is remembered; empty remembers nothing."""
_SMALLEST = 2**20
"""Bytes of a file that is worth remembering: smaller ones are read as fast."""
_SETTLED_SECONDS = 2
"""Age of a file from which its times tell a change: file systems count them in steps."""
_MOST = 1000
"""Files that are remembered."""
_LOCK = threading.Lock()


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file's content."""
    before = path.stat()
    if before.st_size < _SMALLEST:
        return _read(path)
    key = str(path.resolve())
    stamp = [before.st_size, before.st_mtime_ns, before.st_ctime_ns]
    known = _remembered().get(key)
    if isinstance(known, list) and known[:-1] == stamp:
        with suppress(ValueError):
            return bytes.fromhex(str(known[-1]))
    digest = _read(path)
    after = path.stat()
    newest = max(after.st_mtime_ns, after.st_ctime_ns) / 1e9
    unchanged = stamp == [after.st_size, after.st_mtime_ns, after.st_ctime_ns]
    if unchanged and time.time() - newest > _SETTLED_SECONDS:
        _remember(key, [*stamp, digest.hex()])
    return digest


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def cache_path() -> Path | None:
    """The file of what is remembered: below ``$ECDIFF_CACHE``, or the user's cache folder."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder == "":
        return None
    if folder is None:
        try:
            folder = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        except RuntimeError:  # no home
            return None
        folder = os.path.join(folder, "ecdiff")
    return Path(folder) / "file_digests.json"


def _remembered() -> dict[str, list[object]]:
    path = cache_path()
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, entry: list[object]) -> None:
    """Write the file whole; of two processes at once the later keeps its own, and nothing else is lost."""
    path = cache_path()
    if path is None:
        return
    with _LOCK:
        known = _remembered()
        known.pop(key, None)
        kept = [(name, value) for name, value in known.items() if os.path.exists(name)]
        with suppress(OutputError):  # a cache that cannot be written is none
            write_text(path, json.dumps(dict([*kept[1 - _MOST :], (key, entry)]), indent=1))
