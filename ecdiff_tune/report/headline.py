"""What a study found, in a sentence and a few numbers, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecdiff_core.io.text import counted
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.result import fewer_steps, made_by, race_end
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study.folder import flat


def seconds_text(value: float) -> str:
    """Seconds in three digits.

    >>> seconds_text(0.71547), seconds_text(0.0123), seconds_text(95.31)
    ('0.715 s', '12.3 ms', '95.3 s')
    """
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value:.3g} s"


def sentence(data: StudyData) -> str:
    """What the winner is and what it buys."""
    plan_, score = data.winner.plan, data.score
    cloud, _ = data.record.scorer.cloud_and_edge_seconds(data.num_steps)
    edge = f" and {plan_.edge_calls} calls of the edge model" if plan_.edge_calls else ""
    times, seconds = cloud / data.winner.seconds, seconds_text(data.winner.seconds)
    held = score.get("heldout") or {}
    checked = ""
    if held.get("quality") is not None:
        checked = (
            f", and {shown(held['quality'], 3)} on {counted(held['num_prompts'], 'prompt')} not tuned on"
            f"{fewer_steps(score)}"
        )
    end = race_end(data.config)
    ended = f" {end[0].upper()}{end[1:]}." if end else ""
    return (
        f"{made_by(data.config.sampling).capitalize()} takes {seconds} in place of the cloud's "
        f"{seconds_text(cloud)}, "
        f"{times:.1f} times as fast, by {plan_.cloud_calls} of {plan_.num_steps} cloud calls{edge}; "
        f"its SSIM to the cloud's own is {shown(score['quality'], 3)}{checked}.{ended}"
    )


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page."""

    value: str
    name: str
    more: str = ""


def tiles(data: StudyData) -> list[Tile]:
    """The numbers that one looks for first."""
    cloud_seconds, _ = data.record.scorer.cloud_and_edge_seconds(data.num_steps)
    score, plan_ = data.score, data.winner.plan

    def interval(name: str) -> str:
        low, high = score[f"{name}_ci95"]
        return f"95% {shown(low, 3)} … {shown(high, 3)}"

    found = [
        Tile(f"{cloud_seconds / data.winner.seconds:.2f} ×", "as fast as the cloud alone"),
        Tile(shown(score["quality"], 3), "quality, mean SSIM", interval("quality")),
        Tile(f"{score['psnr']:.1f} dB", "median PSNR"),
        Tile(f"{plan_.cloud_calls}", f"cloud calls of {plan_.num_steps}", f"{plan_.edge_calls} edge calls"),
        Tile(shown(score["efficiency"], 3), "efficiency"),
    ]
    if score["burden"] is not None:
        found.append(Tile(shown(score["burden"], 3), "burden"))
    return [*found, Tile(shown(score["objective"], 3), "objective", interval("objective"))]


def provenance(data: StudyData) -> list[tuple[str, str]]:
    """Key and value of everything that the numbers depend on."""
    record = data.record
    own: Mapping[str, Any] = {name: one for name, one in data.provenance.items() if name != "tied"}
    pair, sampling = data.config.pair, data.config.sampling
    tree = {
        **{name: one for name, one in pair.tree().items() if name != "name"},
        "sampling": {name: one for name, one in vars(sampling).items() if one is not None},
        **own,
    }
    found = [(key, _shown(value)) for key, value in flat(tree).items() if value is not None]
    found.append(("winner", data.source or "the best config of the ledger"))
    if len(record.heldout):
        found.append(("heldout.digest", record.heldout.digest))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
