"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdiff_core.errors import OutputError
from ecdiff_core.io.atomic_files import replacing, write_text

from ...refusals import refused


def test_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("first", "second"):
        write_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def stop_in_the_middle() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        stop_in_the_middle()
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "inside.txt"
    with refused(OutputError, key=str(path), line="File exists"):
        write_text(path, "text")
    (tmp_path / "folder").mkdir()
    with refused(OutputError, key=str(tmp_path / "folder"), line="Is a directory"):
        write_text(tmp_path / "folder", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
