"""The grammar of the embedded video pair: moving scenes, their captions, and which training never saw.

A scene is one or two coloured shapes, each with a motion, on a patterned background that rests. Scenes are
drawn by ``scripts/shapes_video/draw.py``, which only training and evaluation need.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ecdiff_core.shapes.grammar import COLORS, HELD_OUT_SHARE, PATTERNS, SHAPES, TONES

MOTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "growing",
    "shrinking",
    "turning",
    "resting",
)
ROUND_SHAPES = ("circle", "ring")
"""Shapes whose turning cannot be seen: they never turn."""

LAYOUTS = {1: ("in the center",), 2: ("from left to right", "from top to bottom")}
"""How the objects of a scene are placed, by the number of objects; a caption leaves a lone object's out."""


@dataclass(frozen=True)
class MovingObject:
    """One shape of a scene and what it does."""

    shape: str
    color: str
    motion: str

    def __str__(self) -> str:
        return f"{'an' if self.color[0] in 'aeiou' else 'a'} {self.color} {self.shape} {self.motion}"


@dataclass(frozen=True)
class MovingScene:
    """One or two objects in reading order, their layout, and the background."""

    objects: tuple[MovingObject, ...]
    layout: str
    tone: str
    pattern: str

    def caption(self) -> str:
        """The caption, which also names the scene for the split.

        >>> square, star = MovingObject("square", "red", "growing"), MovingObject("star", "blue", "moving up")
        >>> MovingScene((square, star), "from left to right", "dark", "striped").caption()
        'from left to right a red square growing and a blue star moving up, on a dark striped background'
        >>> MovingScene((star,), "in the center", "light", "plain").caption()
        'a blue star moving up, on a light plain background'
        """
        body = " and ".join(str(o) for o in self.objects)
        if len(self.objects) > 1:
            body = f"{self.layout} {body}"
        return f"{body}, on a {self.tone} {self.pattern} background"


def sample_scene(rng: random.Random) -> MovingScene:
    """One random scene; one and two objects are equally frequent, and colours in a scene differ."""
    count = rng.randint(1, 2)
    objects = []
    for color in rng.sample(COLORS, count):
        shape = rng.choice(SHAPES)
        motions = [m for m in MOTIONS if m != "turning" or shape not in ROUND_SHAPES]
        objects.append(MovingObject(shape, color, rng.choice(motions)))
    return MovingScene(tuple(objects), rng.choice(LAYOUTS[count]), rng.choice(TONES), rng.choice(PATTERNS))


def is_held_out(scene: MovingScene) -> bool:
    """Whether training must never see this scene (decided by its caption's SHA-256 alone)."""
    digest = hashlib.sha256(scene.caption().encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def scenes(seed: int, held_out: bool = False) -> Iterator[MovingScene]:
    """Endless distinct scenes of one side of the split, the same ones for the same seed."""
    rng = random.Random(seed)
    seen: set[MovingScene] = set()
    while True:
        scene = sample_scene(rng)
        if scene not in seen and is_held_out(scene) == held_out:
            seen.add(scene)
            yield scene
