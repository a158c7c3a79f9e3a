"""The lines that a command ends with, from the config that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.io.text import counted
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report import tables

NAMED = 5
"""Tied configs that are named on the terminal; the YAML lists all."""


def result_lines(config: TunedConfig, num_prompts: int, cloud_seconds: float) -> list[str]:
    """A Table 5 row, quality and objective with their intervals, ties, calls and seconds.

    Args:
        num_prompts: in the calibration set.
        cloud_seconds: of a picture or video by the cloud alone.
    """
    score = config.score or {}
    made = made_by(config.sampling)
    seconds = f"{score['seconds']:.2f} s {made} (cloud only {cloud_seconds:.2f} s)"
    return [
        *tables.table5([config]).splitlines(),
        f"quality {_with_interval(score, 'quality')} on {counted(num_prompts, 'prompt')}"
        f"{_heldout(score, 'quality')}",
        f"objective {_with_interval(score, 'objective')}{_heldout(score, 'objective')}",
        *_warning(score),
        *tied_line((config.provenance or {}).get("tied", ()), score["seconds"], made),
        " · ".join([str(config.plan()), *_ways(config.sampling), seconds]),
    ]


def _ways(sampling: Sampling) -> list[str]:
    """How approximated and edge steps are made, where not as usual."""
    given = {"estimator": sampling.estimator, "handoff_adapter": sampling.handoff_adapter}
    return [f"{name} {value}" for name, value in given.items() if value != _USUAL[name]]


def thing(sampling: Sampling) -> str:
    """What a generation makes: picture or video."""
    return "video" if (sampling.num_frames or 1) > 1 else "picture"


def made_by(sampling: Sampling) -> str:
    """The same with an article."""
    return f"a {thing(sampling)}"


def _with_interval(score: Mapping[str, Any], name: str) -> str:
    low, high = score[f"{name}_ci95"]
    return f"{shown(score[name])} (95% {shown(low)} … {shown(high)})"


def _heldout(score: Mapping[str, Any], name: str) -> str:
    held = score.get("heldout") or {}
    if held.get(name) is None:
        return ""
    return f", {shown(held[name])} on {counted(held['num_prompts'], 'held-out one')}"


def _warning(score: Mapping[str, Any]) -> list[str]:
    """Where held-out prompts do not bear out what the calibration prompts promise."""
    held, (low, high) = (score.get("heldout") or {}).get("objective"), score["objective_ci95"]
    if held is None or held >= low:
        return []
    return [
        f"note: the objective on held-out prompts, {shown(held)}, lies below the interval of the calibration "
        f"prompts, {shown(low)} … {shown(high)}: expect less than was tuned, or tune on more prompts."
    ]


def tied_line(tied: Any, seconds: float, made: str = "a picture") -> list[str]:
    """The configs that the prompts cannot tell from the winner; none is no line.

    >>> tied_line([{"p": 3, "k": 5, "alpha": 0.1, "s": 39, "seconds": 0.5}], 0.72)
    ['tied with the winner: p=3 k=5 alpha=0.1 s=39 (the cheapest, 0.50 s a picture)']
    """
    if not tied:
        return []
    first, *others = [_named(one) for one in tied[:NAMED]]
    if tied[0]["seconds"] < seconds:
        head = f"tied with the winner: {first} (the cheapest, {tied[0]['seconds']:.2f} s {made})"
    else:
        head = f"tied with the winner, which is the cheapest: {first}"
    more = f" and {len(tied) - NAMED} more" if len(tied) > NAMED else ""
    return [", ".join([head, *others]) + more]


def _named(config: Mapping[str, Any]) -> str:
    words = [f"{name}={config[name]:g}" for name in ("p", "k", "alpha", "s") if config[name] is not None]
    if config.get("schedule"):
        words.insert(0, f"steps {','.join(map(str, config['schedule']))}")
    words += [config[name] for name, usual in _USUAL.items() if config.get(name, usual) != usual]
    return " ".join(words)


_USUAL = {"estimator": "gradient", "handoff_adapter": "identity"}
