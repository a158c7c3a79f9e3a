"""The scene grammar of the embedded pair: scenes, their captions, and which ones training never saw.

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
"""Share of all scenes that training never sees."""


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene."""

    shape: str
    color: str
    size: str

    def __str__(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to three objects in reading order, their layout, and the background."""

    objects: tuple[SceneObject, ...]
    layout: str
    tone: str
    pattern: str

    def caption(self) -> str:
        """The caption. A layout of one or three objects comes first: CLIP's text encoder reads forwards only.

        >>> square, star = SceneObject("square", "red", "large"), SceneObject("star", "blue", "small")
        >>> Scene((square, star), "left of", "dark", "striped").caption()
        'a large red square left of a small blue star, on a dark striped background'
        >>> Scene((star,), "at the top", "light", "plain").caption()
        'at the top a small blue star, on a light plain background'
        """
        names = [str(o) for o in self.objects]
        if len(names) == 1:
            body = f"{self.layout} {names[0]}"
        elif len(names) == 2:
            body = f"{names[0]} {self.layout} {names[1]}"
        else:
            body = f"{self.layout} {names[0]}, {names[1]} and {names[2]}"
        return f"{body}, on a {self.tone} {self.pattern} background"

    def key(self) -> str:
        """What the scene holds, whatever the wording of captions: the split of scenes goes by it."""
        names = [str(o) for o in self.objects]
        if len(names) == 2:
            body = f"{names[0]} {self.layout} {names[1]}"
        else:
            body = f"{', '.join(names[:-1])} and {names[-1]} {self.layout}".removeprefix(" and ")
        return f"{body}, on a {self.tone} {self.pattern} background"


def sample_scene(rng: random.Random) -> Scene:
    """One random scene; object counts 1, 2 and 3 are equally frequent, and colours in a scene differ."""
    count = rng.randint(1, 3)
    colors = rng.sample(COLORS, count)
    objects = tuple(SceneObject(rng.choice(SHAPES), color, rng.choice(SIZES)) for color in colors)
    return Scene(objects, rng.choice(LAYOUTS[count]), rng.choice(TONES), rng.choice(PATTERNS))


def is_held_out(scene: Scene) -> bool:
    """Whether training must never see this scene (decided by the SHA-256 of its key, so by nothing else)."""
    digest = hashlib.sha256(scene.key().encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def scenes(seed: int, held_out: bool = False) -> Iterator[Scene]:
    """Endless distinct scenes of one side of the split, the same ones for the same seed."""
    rng = random.Random(seed)
    seen: set[Scene] = set()
    while True:
        scene = sample_scene(rng)
        if scene not in seen and is_held_out(scene) == held_out:
            seen.add(scene)
            yield scene
