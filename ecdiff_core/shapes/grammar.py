"""The scene grammar of the embedded pair: scenes, their captions, and which captions training never saw.

A scene is one to three coloured shapes on a patterned background; its caption says everything that a
viewer could check. Scenes are drawn by ``scripts/shapes_pair/draw.py``, which only training needs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
TONES = ("dark", "light")
PATTERNS = ("plain", "shaded", "striped", "checked", "dotted", "wavy")
LAYOUTS = {
    1: ("in the center", "on the left", "on the right", "at the top", "at the bottom"),
    2: ("left of", "above"),
    3: ("from left to right", "from top to bottom"),
}
"""How the objects of a scene are placed, by the number of objects."""

HELD_OUT_SHARE = 0.1
"""Share of all captions that training never sees, chosen by the caption's hash."""


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene."""

    shape: str
    color: str
    size: str

    def __str__(self) -> str:
        article = "an" if self.size[0] in "aeiou" else "a"
        return f"{article} {self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to three objects in reading order, their layout, and the background."""

    objects: tuple[SceneObject, ...]
    layout: str
    tone: str
    pattern: str

    def caption(self) -> str:
        """The caption.

        >>> square, star = SceneObject("square", "red", "large"), SceneObject("star", "blue", "small")
        >>> Scene((square, star), "left of", "dark", "striped").caption()
        'a large red square left of a small blue star, on a dark striped background'
        """
        names = [str(o) for o in self.objects]
        if len(names) == 1:
            body = f"{names[0]} {self.layout}"
        elif len(names) == 2:
            body = f"{names[0]} {self.layout} {names[1]}"
        else:
            body = f"{names[0]}, {names[1]} and {names[2]} {self.layout}"
        return f"{body}, on a {self.tone} {self.pattern} background"


def sample_scene(rng: random.Random) -> Scene:
    """One random scene; object counts 1, 2 and 3 are equally frequent, and colours in a scene differ."""
    count = rng.randint(1, 3)
    colors = rng.sample(COLORS, count)
    objects = tuple(SceneObject(rng.choice(SHAPES), color, rng.choice(SIZES)) for color in colors)
    return Scene(objects, rng.choice(LAYOUTS[count]), rng.choice(TONES), rng.choice(PATTERNS))


def is_held_out(caption: str) -> bool:
    """Whether training must never see this caption (decided by its SHA-256, so by nothing else)."""
    digest = hashlib.sha256(caption.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def scenes(seed: int, held_out: bool = False) -> Iterator[Scene]:
    """Endless distinct scenes of one side of the split, the same ones for the same seed."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        scene = sample_scene(rng)
        caption = scene.caption()
        if caption not in seen and is_held_out(caption) == held_out:
            seen.add(caption)
            yield scene
