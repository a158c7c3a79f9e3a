"""Measurements of methods as rows of a table: means with intervals, seconds, calls, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pandas as pd

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.link import BYTES_PER_VALUE
from ecdiff_tune.evaluation.model_calls import PlanCalls
from ecdiff_tune.experiments.methods import ComparedMethod
from ecdiff_tune.metrics.intervals import interval95


def quality_table(
    methods: Sequence[ComparedMethod], measured: Mapping[str, Sequence[Measurement]], seed: int
) -> pd.DataFrame:
    """A row a method: mean and bootstrap 95% interval over prompts of SSIM, PSNR and extra metrics.

    Means are over the prompts that have a finite image; ``prompts`` counts them, ``failed`` the others.
    """
    rows = []
    for method in methods:
        found = measured[method.name]
        good = [one for one in found if one.ssim is not None]
        row: dict[str, Any] = {"method": method.name, "label": method.label}
        for metric, values in _values(good).items():
            mean, low, high = _mean(values, seed)
            row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
        rows.append({**row, "prompts": len(good), "failed": len(found) - len(good)})
    return pd.DataFrame(rows)


def _values(good: Sequence[Measurement]) -> dict[str, list[float]]:
    """By metric, prompt by prompt; extra ones where every prompt has them."""
    found = {
        "ssim": [one.ssim for one in good if one.ssim is not None],
        "psnr": [one.psnr for one in good if one.psnr is not None],
    }
    names = set.intersection(*(set(one.extra) for one in good)) if good else set()
    return found | {name: [one.extra[name] for one in good] for name in sorted(names)}


def _mean(values: Sequence[float], seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean and interval; equal images have an infinite PSNR, and then there is no interval."""
    if not values:
        return None, None, None
    mean = fmean(values)
    return (mean, *interval95(values, seed)) if math.isfinite(mean) else (mean, None, None)


def cost_table(
    methods: Sequence[ComparedMethod],
    latency: LatencyProfile,
    timed: Mapping[str, float | None],
    study_steps: int,
) -> pd.DataFrame:
    """A row a method: seconds and what they consist of.

    ``seconds`` follow from the profile, which knows no caches: those have none. ``measured_seconds`` are by
    the clock, with the profile's transfer added where a method hands over.

    Args:
        timed: seconds by the names of methods; left out where nothing was timed.
        study_steps: T of the study.
    """
    alone, _ = latency.alone(study_steps)
    rows = []
    for method in methods:
        plan = method.plan
        seconds = None if method.sampler.acceleration else latency.seconds(plan)
        row: dict[str, Any] = {
            "method": method.name,
            "label": method.label,
            "seconds": seconds,
            "speedup": None if seconds is None else alone / seconds,
        }
        clock = timed.get(method.name)
        measured = None if clock is None else clock + latency.transfer(plan)
        clock_alone = timed.get("cloud")
        row["measured_seconds"] = measured
        row["measured_speedup"] = clock_alone / measured if clock_alone and measured else None
        row |= asdict(PlanCalls.of(plan)) | {"bytes": bytes_sent(method, latency)}
        rows.append(row)
    return pd.DataFrame(rows).astype({"bytes": "Int64"})


def bytes_sent(method: ComparedMethod, latency: LatencyProfile) -> int | None:
    """What crosses the link in one generation; None where an old profile does not tell."""
    if not method.plan.hands_over:
        return 0
    more = method.plan.tensors_sent - 1
    if latency.payload_values is None or (more and latency.tensor_values is None):
        return None
    return (latency.payload_values + more * (latency.tensor_values or 0)) * BYTES_PER_VALUE


def comparable_seconds(costs: pd.DataFrame) -> pd.Series:
    """Seconds on the profile's scale: of a cache the measured ones, in proportion to the cloud's."""
    cloud = costs[costs["method"] == "cloud"]
    if not len(cloud):
        return costs["seconds"]
    factor = cloud["seconds"].iloc[0] / cloud["measured_seconds"].astype(float).iloc[0]
    return costs["seconds"].astype(float).fillna(costs["measured_seconds"].astype(float) * factor)


def with_budget(costs: pd.DataFrame, methods: Sequence[ComparedMethod], budget: float | None) -> pd.DataFrame:
    """The costs with ``setting``, an acceleration's values, and its ``within_budget``, by the clock.

    Of what has no acceleration, or was not timed, ``within_budget`` is empty.
    """
    settings = [
        "" if (choice := one.sampler.acceleration) is None else choice.text.removeprefix(choice.method.label)
        for one in methods
    ]
    costs = costs.assign(setting=[one.strip() for one in settings])
    if budget is None:
        return costs
    measured = costs["measured_seconds"].astype(float)
    within = (measured <= budget * (1 + 1e-9)).map({True: "yes", False: "no"})
    held = measured.notna() & pd.Series([one.sampler.acceleration is not None for one in methods])
    return costs.assign(budget_seconds=budget, within_budget=within.where(held))
