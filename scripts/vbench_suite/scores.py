"""VBench (Huang et al. 2024): its prompts, its result files, and its 16 dimensions as one score.

The evaluation itself is VBench's own program; ``export`` makes the videos that it wants.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.data.prompt_files import read_rows

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
RESULTS = "*_eval_results.json"
"""How VBench names its result files."""


class VBenchError(ECDiffError):
    """A file of VBench's cannot be read, or a dimension is missing or out of range."""


@dataclass(frozen=True)
class Dimension:
    """How a dimension enters the total: (score - least) / (most - least), times its weight.

    Args:
        semantic: whether it counts to the semantic score; else to the quality score.
        least, most: the range that VBench's authors saw, as fractions.
        weight: within the quality or the semantic score.
    """

    semantic: bool = False
    least: float = 0.0
    most: float = 1.0
    weight: float = 1.0


DIMENSIONS = {
    "subject_consistency": Dimension(least=0.1462),
    "background_consistency": Dimension(least=0.2615),
    "temporal_flickering": Dimension(least=0.6293),
    "motion_smoothness": Dimension(least=0.706, most=0.9975),
    "dynamic_degree": Dimension(weight=0.5),
    "aesthetic_quality": Dimension(),
    "imaging_quality": Dimension(),
    "object_class": Dimension(semantic=True),
    "multiple_objects": Dimension(semantic=True),
    "human_action": Dimension(semantic=True),
    "color": Dimension(semantic=True),
    "spatial_relationship": Dimension(semantic=True),
    "scene": Dimension(semantic=True, most=0.8222),
    "appearance_style": Dimension(semantic=True, least=0.0009, most=0.2855),
    "temporal_style": Dimension(semantic=True, most=0.364),
    "overall_consistency": Dimension(semantic=True, most=0.364),
}
"""In the order of the paper's Tables 3 and 4. Ranges and weights are those of VBench's leaderboard."""


@dataclass(frozen=True)
class Score:
    """What VBench's leaderboard shows, as fractions.

    Args:
        dimensions: all 16, as VBench measured them.
    """

    dimensions: Mapping[str, float]

    def __post_init__(self) -> None:
        in_order(self.dimensions)
        missing = [name for name in DIMENSIONS if name not in self.dimensions]
        if missing:
            raise VBenchError(
                f"The total needs all {len(DIMENSIONS)} VBench dimensions, missing: {', '.join(missing)}.",
                key="dimensions",
                got=list(self.dimensions),
                expected=missing,
                advice="Let VBench evaluate those too.",
            )

    @property
    def quality(self) -> float:
        """Weighted mean of seven normalized dimensions of the video itself."""
        return self._mean(semantic=False)

    @property
    def semantic(self) -> float:
        """Mean of nine normalized dimensions of how video and prompt agree."""
        return self._mean(semantic=True)

    @property
    def total(self) -> float:
        """Four parts quality, one part semantic."""
        weighted = QUALITY_WEIGHT * self.quality + SEMANTIC_WEIGHT * self.semantic
        return weighted / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)

    def row(self) -> dict[str, float]:
        """All dimensions in the paper's order, then quality, semantic and total; percent."""
        values = {name: self.dimensions[name] for name in DIMENSIONS}
        values |= {"quality": self.quality, "semantic": self.semantic, "total": self.total}
        return {name: 100 * value for name, value in values.items()}

    def _mean(self, semantic: bool) -> float:
        chosen = {name: one for name, one in DIMENSIONS.items() if one.semantic == semantic}
        parts = [
            one.weight * (self.dimensions[name] - one.least) / (one.most - one.least)
            for name, one in chosen.items()
        ]
        return math.fsum(parts) / sum(one.weight for one in chosen.values())


def in_order(dimensions: Mapping[str, float]) -> list[str]:
    """Names of dimensions in the paper's order.

    Raises:
        VBenchError: one is unknown, or no fraction.
    """
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown:
        raise VBenchError.unknown("VBench dimension", unknown[0], DIMENSIONS)
    for name, value in dimensions.items():
        if not 0 <= value <= 1:  # also where it is nan
            raise VBenchError(key=name, got=value, expected="as a fraction within 0 … 1")
    return [name for name in DIMENSIONS if name in dimensions]


def load_score(path: Path) -> Score:
    """The score of VBench's result files; ``path`` as of ``read_results``.

    Raises:
        VBenchError: they cannot be read, or a dimension is missing or out of range.
    """
    found = read_results(path)
    try:
        return Score(found)
    except VBenchError as error:
        raise error.of(str(path)) from None


def read_results(path: Path) -> dict[str, float]:
    """The dimensions in VBench's result files, as fractions.

    Args:
        path: a result file, or a folder with ``*_eval_results.json`` files in it or below it.

    Raises:
        VBenchError: nothing is there, a file is not VBench's, or two files differ in a dimension.
    """
    files = sorted(path.rglob(RESULTS)) if path.is_dir() else [path]
    if not files:
        raise VBenchError(f"Expected files {RESULTS} of VBench in {path}, found none.", key=str(path))
    found: dict[str, float] = {}
    source: dict[str, Path] = {}
    for file in files:
        for name, value in _read_file(file).items():
            if found.setdefault(name, value) != value:
                raise VBenchError(
                    f"{source[name]} and {file} differ in {name} ({found[name]:g} and {value:g}).",
                    key=name,
                    got=(found[name], value),
                    advice="Keep the results of one set of videos in a folder.",
                )
            source.setdefault(name, file)
    return found


def _read_file(path: Path) -> dict[str, float]:
    """``{"color": [0.85, [one result a video]], …}``; the name may have spaces for underscores."""
    tree = _read_json(path)
    if not isinstance(tree, dict):
        line = f"Expected an object of VBench dimensions in {path}, got another JSON."
        raise VBenchError(line, key=str(path), got=type(tree).__name__, expected="an object")
    found = {}
    for name, result in tree.items():
        value = result[0] if isinstance(result, list) and result else result
        if isinstance(value, bool) or not isinstance(value, int | float):
            line = f"Expected [score, results of the videos] for {name!r} in {path}."
            raise VBenchError(line, key=name, got=value, expected="[score, results of the videos]")
        found[name.strip().lower().replace(" ", "_")] = float(value)
    return found


def read_suite(path: Path) -> list[str]:
    """VBench's prompts, each once, in their order.

    Args:
        path: ``VBench_full_info.json``, or a text file with a prompt a line (``all_dimension.txt``).

    Raises:
        VBenchError: it is no JSON of VBench's.
        PromptFileError: the text file cannot be read.
    """
    prompts = full_info_prompts(path) if path.suffix.lower() == ".json" else read_rows(path).prompts
    return list(dict.fromkeys(prompts))


def full_info_prompts(path: Path) -> list[str]:
    """The prompts of a ``VBench_full_info.json``, one an entry.

    Raises:
        VBenchError: it cannot be read, or is another JSON.
    """
    tree = _read_json(path)
    entries: Sequence[Any] = tree if isinstance(tree, list) else []
    prompts = [one.get("prompt_en") if isinstance(one, dict) else None for one in entries]
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        line = f'Expected a list of {{"prompt_en": …, "dimension": […]}} in {path}.'
        raise VBenchError(line, key=str(path), expected=["prompt_en", "dimension"])
    return [str(prompt).strip() for prompt in prompts]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise VBenchError(f"Cannot read {path}: {error.strerror}.", key=str(path)) from error
    except ValueError as error:  # neither UTF-8 nor JSON
        raise VBenchError(f"Cannot read {path}: it is not JSON.", key=str(path)) from error
