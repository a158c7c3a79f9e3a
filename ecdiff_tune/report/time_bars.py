"""Where the seconds of a picture go, by the latency profile."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan, plan
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.report.study_data import StudyData


@dataclass(frozen=True)
class Bar:
    """Where the seconds of one way to make a picture go: (style, what, seconds) parts."""

    name: str
    total: float
    parts: tuple[tuple[str, str, float], ...]


def bars(data: StudyData) -> list[Bar]:
    """Cloud alone, edge alone, HybridSD with the winner's s, the paper's row, and the winner."""
    steps, winner = data.num_steps, data.winner.plan
    plans = {
        "cloud alone": plan(ECDiffParams.cloud_only(steps), steps),
        f"HybridSD, s = {winner.handoff_step}": plan(ECDiffParams.hybrid(winner.handoff_step), steps),
        "the winner": winner,
        "edge alone": plan(ECDiffParams.edge_only(), steps),
    }
    if not winner.hands_over:
        plans.pop(f"HybridSD, s = {winner.handoff_step}")
    if data.paper is not None:
        plans["the paper's row"] = data.paper.plan()
    latency = data.record.latency
    found = [Bar(name, latency.seconds(one), _parts(latency, one)) for name, one in plans.items()]
    return sorted(found, key=lambda one: -one.total)


def _parts(latency: LatencyProfile, steps: Plan) -> tuple[tuple[str, str, float], ...]:
    """Of ``Bar``, those that take time."""
    every = (
        ("encode", "encode", latency.encode.median),
        ("cloud", f"{steps.cloud_calls} cloud calls", steps.cloud_calls * latency.cloud_call.median),
        ("transfer", "transfer", latency.transfer(steps)),
        ("edge", f"{steps.edge_calls} edge calls", steps.edge_calls * latency.edge_call.median),
        ("decode", "decode", latency.decode.median),
    )
    return tuple(part for part in every if part[2] > 0)
