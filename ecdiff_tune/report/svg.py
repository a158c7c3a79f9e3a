"""Small inline SVG plots. Colours come from the page's style sheet, so that they follow its theme."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from ecdiff_core.io.text import visible

Point = tuple[float, float]
Box = tuple[float, float, float]
"""Of a label: its left and right end, its foot."""

WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 48
"""Margins."""
LETTER, LINE = 6.7, 13
"""About the width of a letter, and the height of a label."""
RISES = (9, -17, 22, -30, 35, -43, 48)
"""How far over its point a label may stand, the best first."""
FAR = 12
"""Beyond which a line leads to it."""


def escape(text: str) -> str:
    """Text for SVG, which allows no control characters; a newline stays."""
    return html.escape(visible(text, "\n"))


@dataclass(frozen=True)
class Axis:
    """A range of values and what they are; ``whole`` has ticks at whole numbers alone, no label no ticks."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def around(
        cls,
        label: str,
        values: Iterable[float],
        *,
        log: bool = False,
        whole: bool = False,
        room: float = 0.06,
    ) -> Axis:
        """The range of the finite values, with some room on both sides."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(known), max(known)
        if log:
            share = (high / low) ** room if high > low else 1.2
            return cls(label, low / share, high * share, log, whole)
        spare = (high - low) * room or abs(high) * room or 1.0
        return cls(label, low - spare, high + spare, log, whole)

    def at(self, value: float) -> float:
        """Where a value lies, 0 … 1 within the range."""
        if self.log:
            floor = max(value, self.low / 1e6)
            return math.log(floor / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within the range, about five.

        >>> Axis("s", 29.4, 40.6).ticks()
        [30.0, 32.0, 34.0, 36.0, 38.0, 40.0]
        >>> Axis("Mbps", 0.8, 200, log=True).ticks()
        [1.0, 10.0, 100.0]
        """
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for digits in ((1,), (1, 3), (1, 2, 5)):
                found = [d * 10.0**e for e in range(first, last + 1) for d in digits]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) >= 3:
                    break
            return found
        rough = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        if self.whole:
            step = max(1, round(step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        ticks = [float(f"{i * step:.12g}") + 0.0 for i in range(first, last + 1)]
        return [min(max(tick, self.low), self.high) for tick in ticks]  # out by rounding alone


def short(value: float) -> str:
    """A tick's text.

    >>> short(0.30000000000000004), short(50.0), short(0.00001), short(20000.0)
    ('0.3', '50', '1e-5', '20000')
    """
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.6g}"


@dataclass
class Plot:
    """One plot: begin with axes, add marks in drawing order, end with ``svg``.

    A ``style`` is a class of the page's style sheet, which gives the colour.
    """

    name: str
    x: Axis
    y: Axis
    height: int = HEIGHT
    legend: list[tuple[str, str]] = field(default_factory=list)
    """(style, label) of what the page explains beside the plot."""
    _parts: list[str] = field(default_factory=list)
    _marks: list[Point] = field(default_factory=list)
    _labels: list[tuple[float, float, str, str]] = field(default_factory=list)
    """Point, text and style: placed in the end, when all marks are known."""

    def place(self, x: float, y: float) -> Point:
        """Values to coordinates."""
        across, up = self.x.at(x), self.y.at(y)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            self.height - BOTTOM - up * (self.height - TOP - BOTTOM),
        )

    def line(self, points: Sequence[Point], style: str) -> None:
        """Straight pieces through the points."""
        self._parts.append(f'<polyline class="line {style}" points="{self._places(points)}"/>')

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> None:
        """The area between two lines."""
        outline = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
        self._parts.append(f'<polygon class="band {style}" points="{self._places(outline)}"/>')

    def arrows(self, points: Sequence[Point], style: str) -> None:
        """A path through the points with a small head in the middle of every piece."""
        places = [self.place(*point) for point in points]
        self.line(points, style)
        for (x1, y1), (x2, y2) in pairwise(places):
            if math.hypot(x2 - x1, y2 - y1) < 14:
                continue
            angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
            at = f"translate({(x1 + x2) / 2:.1f},{(y1 + y2) / 2:.1f}) rotate({angle:.0f})"
            self._parts.append(f'<path class="head {style}" transform="{at}" d="M-3,-3.4L4,0L-3,3.4z"/>')

    def mark(self, x: float, y: float, style: str, title: str, shape: str = "dot") -> None:
        """A point that tells ``title`` when it is pointed at: dot, ring, diamond, square, star or cross.

        With `` part`` behind the shape it is hollow.
        """
        across, up = self.place(x, y)
        self._marks.append((across, up))
        self._parts.append(
            f'<path class="mark {shape} {style}" tabindex="0" transform="translate({across:.1f},{up:.1f})" '
            f'd="{_SHAPES[shape.removesuffix(" part")]}"><title>{escape(title)}</title></path>'
        )

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        """A vertical interval."""
        (across, bottom), (_, top) = self.place(x, low), self.place(x, high)
        path = f"M{across:.1f},{bottom:.1f}V{top:.1f}m-4,0h8m-8,{bottom - top:.1f}h8"
        self._parts.append(f'<path class="line {style}" d="{path}"/>')

    def across(self, y: float, low: float, high: float, style: str) -> None:
        """A horizontal interval."""
        (left, up), (right, _) = self.place(low, y), self.place(high, y)
        path = f"M{left:.1f},{up:.1f}H{right:.1f}m0,-5v10m{left - right:.1f},0v-10"
        self._parts.append(f'<path class="line {style}" d="{path}"/>')

    def rule(self, x: float, style: str, label: str = "") -> None:
        """A vertical line over the whole height, its label at the top."""
        across, _ = self.place(x, self.y.low)
        self._parts.append(f'<path class="line {style}" d="M{across:.1f},{TOP}V{self.height - BOTTOM}"/>')
        if label:
            self._labels.append((across, TOP + 20, label, style))

    def text(self, x: float, y: float, label: str, style: str = "") -> None:
        """A label beside a point, on the side with more room, where it covers no other and no mark."""
        self._labels.append((*self.place(x, y), label, style))

    def _placed(self) -> Iterator[str]:
        """The labels, where they stand."""
        boxes: list[Box] = []
        for across, up, label, style in self._labels:
            left = across > (LEFT + WIDTH) * 0.62
            anchor, shift = ("end", -7) if left else ("start", 7)
            ends = across + shift, across + shift + (-1 if left else 1) * LETTER * len(label)
            ways = [(min(ends), max(ends), up - rise) for rise in RISES]
            ways = [box for box in ways if TOP + 9 <= box[2] <= self.height - BOTTOM - 2]
            free = [box for box in ways if not any(_cover(box, other) for other in boxes)]
            clear = [box for box in free if not any(_hides(box, mark) for mark in self._marks)]
            box = next(iter([*clear, *free]), (min(ends), max(ends), max(up - RISES[0], TOP + 9)))
            boxes.append(box)
            middle = box[2] - LINE / 3
            if abs(middle - up) > FAR:
                line = f"M{across:.1f},{up:.1f}L{across + shift:.1f},{middle:.1f}"
                yield f'<path class="leader {style}" d="{line}"/>'
            yield (
                f'<text class="label {style}" x="{across + shift:.1f}" y="{box[2]:.1f}" '
                f'text-anchor="{anchor}">{escape(label)}</text>'
            )

    def _places(self, points: Iterable[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))

    def svg(self) -> Markup:
        """The element."""
        bottom = self.height - BOTTOM
        parts = []
        for value in self.x.ticks():
            x, _ = self.place(value, self.y.low)
            parts.append(f'<path class="grid" d="M{x:.1f},{TOP}V{bottom}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{short(value)}</text>')
        for value in self.y.ticks() if self.y.label else ():
            _, y = self.place(self.x.low, value)
            parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
        parts += [
            f'<text class="axis" x="{middle_x}" y="{self.height - 10}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>",
            f'<text class="axis" transform="translate(14,{middle_y}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.label)}</text>",
            *self._parts,
            *self._placed(),
        ]
        return Markup(
            f'<svg class="plot" viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{escape(self.name)}">{"".join(parts)}</svg>'
        )


def _cover(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and abs(one[2] - other[2]) < LINE


def _hides(box: Box, mark: Point) -> bool:
    return box[0] - 4 < mark[0] < box[1] + 4 and -6 < box[2] - mark[1] < LINE + 2


def _star(points: int, outer: float, inner: float) -> str:
    corners = []
    for i in range(2 * points):
        radius, angle = (outer if i % 2 == 0 else inner), math.pi * i / points - math.pi / 2
        corners.append(f"{radius * math.cos(angle):.1f},{radius * math.sin(angle):.1f}")
    return f"M{'L'.join(corners)}z"


_SHAPES = {
    "dot": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "ring": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "small": "M-2.8,0a2.8,2.8 0 1,0 5.6,0a2.8,2.8 0 1,0 -5.6,0z",
    "square": "M-4,-4h8v8h-8z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "triangle": "M0,-5.4L5.2,4L-5.2,4z",
    "cross": "M-4,-4L4,4M4,-4L-4,4",
    "star": _star(5, 10, 4.2),
}
