"""What a study found, in a sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff_core.io.text import counted
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.study_data import StudyData


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
        )
    return (
        f"A {data.thing} takes {seconds} in place of the cloud's {seconds_text(cloud)}, "
        f"{times:.1f} times as fast, by {plan_.cloud_calls} of {plan_.num_steps} cloud calls{edge}; "
        f"its SSIM to the cloud's own is {shown(score['quality'], 3)}{checked}."
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


def verdict(data: StudyData) -> str:
    """Whether held-out prompts bear out what the calibration prompts promise; empty without them."""
    held, (low, high) = (data.score.get("heldout") or {}).get("objective"), data.score["objective_ci95"]
    if held is None:
        return ""
    told = f"The objective on held-out prompts, {shown(held)},"
    interval = f"the 95% interval of the prompts that were tuned on, {shown(low)} … {shown(high)}"
    if held < low:
        return f"{told} lies below {interval}: expect less than was tuned, or tune on more prompts."
    return f"{told} lies {'within' if held <= high else 'above'} {interval}."
