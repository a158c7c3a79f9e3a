"""What the pages say of the tree is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(
        r"\b(?:conf|ecdiff_core|ecdiff_tune|scripts|tests)/[\w/]+\.(?:py|yaml)\b", page.read_text("utf-8")
    )
    assert [name for name in named if not (ROOT / name).is_file()] == []
