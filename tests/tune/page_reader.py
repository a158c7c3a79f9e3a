"""A page as the tests see it, read with Python's own parser."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

VOID = {"meta", "link", "img", "input", "br"}
DRAWN = {"path", "polyline", "polygon", "text"}


@dataclass
class Page(HTMLParser):
    """Elements, tables by id, images and text of a page; its tags are balanced, or reading it fails."""

    ids: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tables: dict[str, list[list[tuple[str, str | None]]]] = field(default_factory=dict)
    headings: dict[str, list[str]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    text: str = ""
    _open: list[str] = field(default_factory=list)
    _table: str | None = None

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        HTMLParser.__init__(page)
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page._open == []
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: dict[str, Any] = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.classes += (found.get("class") or "").split()
        if "id" in found:
            self.ids.append(found["id"])
        self.addresses += [
            found[name] for name in ("src", "href", "srcset", "action", "data") if name in found
        ]
        if tag == "img":
            self.sources.append(found["src"])
        if tag == "table":
            self._table = found.get("id", f"table {len(self.tables)}")
            self.tables[self._table], self.headings[self._table] = [], []
        if self._table is not None:
            if tag == "tr" and "tbody" in self._open:
                self.tables[self._table].append([])
            if tag == "td":
                self.tables[self._table][-1].append(("", found.get("data-key")))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> where another element is open"
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            return
        if inside == "title":
            self.titles.append(data)
            return
        self.text += data
        if self._table is not None and inside == "td":
            text, key = self.tables[self._table][-1][-1]
            self.tables[self._table][-1][-1] = (text + data, key)
        if self._table is not None and "th" in self._open and data.strip():
            self.headings[self._table].append(data.strip())

    def column(self, table: str, heading: str) -> list[tuple[str, str | None]]:
        """The cells under a heading: what is shown, what is sorted by."""
        place = self.headings[table].index(heading)
        return [row[place] for row in self.tables[table]]

    def images(self) -> list[Image.Image]:
        """Every image, decoded; the dialog's empty one is left out."""
        found = []
        for source in self.sources:
            if source == "data:,":
                continue
            head, _, data = source.partition(",")
            assert head in ("data:image/png;base64", "data:image/webp;base64")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            image.load()
            found.append(image)
        return found
