"""Figures where people see them: inside the page, and as PNG and SVG files."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from urllib.parse import unquote

from markupsafe import Markup
from matplotlib.figure import Figure

from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.io.text import visible
from ecdiff_tune.report.figures import colours, styled


def inline(figure: Figure) -> Markup:
    """The figure as an element of the page, whose style sheet gives the colours and the font."""
    name, buffer = figure.get_label(), io.StringIO()
    with styled(**{"svg.fonttype": "none", "svg.hashsalt": str(name)}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern, new in (
        (r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|<clipPath.*?</clipPath>|<!--.*?-->", ""),
        (r' clip-path="[^"]*"| font-family: [^;"]*;?|(?<=<g) id="[^"]*"', ""),
        (r"xlink:href=\"#", 'href="#'),
        (r"\s*\n\s*", " "),
    ):
        text = re.sub(pattern, new, text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _tidied(tag[0]), text)
    viewed = re.search(r'viewBox="[^"]*"', text)
    assert viewed
    head = f'<svg class="plot" {viewed[0]} role="img" aria-label="{html.escape(visible(str(name)))}">'
    return Markup(head + text[text.index(">") + 1 :])


def _tidied(tag: str) -> str:
    """A tag with short numbers and the page's colours; what was given as a link is a hint."""
    if tag == "</a>":
        return "</g>"
    if link := re.match(r'<a xlink:href="([^"]*)"', tag):
        return f'<g class="mark" tabindex="0"><title>{html.escape(unquote(link[1]))}</title>'
    names = {value: name for name, value in colours().items()}
    tag = re.sub(
        r"(?<=: )#[0-9a-f]{6}", lambda one: f"var(--{names[one[0]]})" if one[0] in names else one[0], tag
    )
    return re.sub(r"-?\d+\.\d{3,}", lambda one: f"{float(one[0]):.2f}".rstrip("0").rstrip("."), tag)


def write_figure(folder: Path, name: str, figure: Figure, dpi: int = 150) -> list[Path]:
    """``name.png`` and ``name.svg``.

    Args:
        dpi: of the PNG.

    Returns:
        The files' paths.
    """
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        save_figure(figure, path, dpi)
    return paths


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """One file of the kind that its name ends with."""
    with replacing(path) as part, styled():
        figure.savefig(part, dpi=dpi, format=path.suffix[1:], bbox_inches="tight", facecolor="white")
