"""The table: what each search found, and what it cost beside greedy that shares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.report.result import falls_short, heldout_verdict
from ecdiff_tune.report.table_files import write_table
from search_bench.runs import CLOUD_ALONE, SAME_SSIM, WHOLE_GRID, Finished, Spent, most_apart

BASELINE = "greedy-off"
"""Wanted of ``joint``: its regret, and that its calls are at most one in so many of the baseline's."""


def optimum(found: Sequence[Finished]) -> Finished:
    """The search whose winner regret is measured against: one over the whole grid, if there is one."""
    grid = [one for one in found if one.name not in CLOUD_ALONE]
    whole = [one for one in grid if one.name in WHOLE_GRID]
    return max(whole or grid or found, key=lambda one: one.objective)


def regret(one: Finished, best: Finished) -> float | None:
    """What the search's winner is below the best, by the best's images where that search made them of every
    prompt; None for a winner of another space."""
    if one.name in CLOUD_ALONE:
        return None
    key = PlannedCandidate.of_config(one.config).key
    if key == PlannedCandidate.of_config(best.config).key:
        return 0.0
    provenance = best.config.provenance or {}
    ssims = [row.ssim for row in best.rows.get(key, {}).values() if row.ssim is not None]
    moved = 0.0
    if len(ssims) == provenance["calibration"]["num_prompts"]:
        quality = float((one.config.score or {})["quality"])
        moved = float(provenance["objective"]["w1"]) * (fmean(ssims) - quality)
    return best.objective - (one.objective + moved)


def factor(one: Finished, found: Sequence[Finished]) -> float | None:
    """How many times the calls of a search the baseline takes; None where that was not run."""
    baseline = next((other for other in found if other.name == BASELINE), None)
    return None if baseline is None else baseline.equivalents / one.equivalents


def floor(one: Finished, num_prompts: int) -> float:
    """Cloud-call equivalents that no search can do without: the reference, and its winner once."""
    plan = one.config.plan()
    winner = Spent(plan.cloud_calls, plan.edge_calls).equivalents(one.edge_weight)
    return one.reference.equivalents(one.edge_weight) + num_prompts * winner


def rows(found: Sequence[Finished]) -> pd.DataFrame:
    """A row a search, in full precision."""
    best = optimum(found)
    return pd.DataFrame([_row(one, best, factor(one, found)) for one in found])


def _row(one: Finished, best: Finished, times: float | None) -> dict[str, Any]:
    params, score, provenance = one.config.params, one.config.score or {}, one.config.provenance or {}
    both = one.reference + one.search
    return {
        "search": one.name,
        **{name: getattr(params, name) for name in ("p", "k", "alpha", "s")},
        "objective": one.objective,
        "regret": regret(one, best),
        "heldout_objective": (score.get("heldout") or {}).get("objective"),
        "interval_low": score["objective_ci95"][0],
        "whole": one.trials[0],
        "in_part": one.trials[1],
        "cloud_calls": both.cloud,
        "edge_calls": both.edge,
        "decodes": both.decode,
        "equivalents": one.equivalents,
        "fewer_by": times,
        "seconds": both.seconds,
        "runs": one.runs,
        "reference_cloud": one.reference.cloud,
        "reference_edge": one.reference.edge,
        "reference_seconds": one.reference.seconds,
        "edge_weight": one.edge_weight,
        "num_prompts": provenance["calibration"]["num_prompts"],
        "num_steps": one.config.sampling.num_inference_steps,
        "device": provenance["device"],
    }


HEADINGS = (
    "search",
    "p, k, alpha, s",
    "objective",
    "regret",
    "held-out",
    "configs measured whole + in part",
    "cloud calls",
    "edge calls",
    "decodes",
    "cloud-call equivalents",
    "fewer by",
    "seconds",
)


def write(folder: Path, found: Sequence[Finished]) -> list[Path]:
    """``bench_search.csv``, ``.md`` and ``.tex``; their paths."""
    table = rows(found)
    shown = pd.DataFrame([_cells(one) for one in table.to_dict("records")], columns=list(HEADINGS))
    return write_table(folder, "bench_search", table, shown)


def write_json(path: Path, found: Sequence[Finished]) -> None:
    """The rows of ``bench_search.csv`` as a list of objects; what is not known is null."""
    write_text(path, rows(found).to_json(orient="records", indent=1, double_precision=10) + "\n")


def _cells(row: dict[Any, Any]) -> list[str]:
    heldout, times = row["heldout_objective"], row["fewer_by"]
    return [
        row["search"] + (f" ({row['runs']} runs)" if row["runs"] > 1 else ""),
        ", ".join("–" if pd.isna(row[name]) else f"{row[name]:g}" for name in ("p", "k", "alpha", "s")),
        f"{row['objective']:.4f}",
        "–" if pd.isna(row["regret"]) else f"{row['regret']:.4f}",
        "–" if pd.isna(heldout) else f"{heldout:.4f}",
        f"{row['whole']} + {row['in_part']}",
        f"{row['cloud_calls']:,}",
        f"{row['edge_calls']:,}",
        f"{row['decodes']:,}",
        f"{row['equivalents']:,.0f}",
        "–" if pd.isna(times) else f"{times:.1f}",
        f"{row['seconds']:,.0f}",
    ]


def describe(found: Sequence[Finished], num_prompts: int) -> list[str]:
    """What a reader wants to know beside the table."""
    best, by_name = optimum(found), {one.name: one for one in found}
    sure = "the optimum of the whole grid" if best.name in WHOLE_GRID else "the best found, by no whole grid"
    lines = [
        f"regret is against {best.objective:.4f} of {best.name}, {sure}; "
        f"an edge call counts as {best.edge_weight:.3f} cloud calls"
    ]
    if "greedy" in by_name and BASELINE in by_name:
        apart = most_apart(by_name["greedy"], by_name[BASELINE])
        lines.append(f"greedy with and without sharing: SSIM within {apart:.1g} (at most {SAME_SSIM:g})")
    for name in ("joint", "joint-placed", "greedy-tests"):
        if name in by_name:
            lines.append(_describe_one(by_name[name], best, by_name.get(BASELINE), num_prompts))
    if "schedule-one" in by_name:
        lines.append(_describe_one_prompt(by_name["schedule-one"], by_name.get("schedule")))
    for one in found:
        score = one.config.score or {}
        if falls_short(score):
            lines.append(f"{one.name}: {heldout_verdict(score)}")
    return lines


def _describe_one(one: Finished, best: Finished, baseline: Finished | None, num_prompts: int) -> str:
    line = f"{one.name}: regret {regret(one, best) or 0.0:.4f}"
    if baseline is None:
        return line
    least = baseline.equivalents / floor(one, num_prompts)
    return (
        f"{line}, 1/{baseline.equivalents / one.equivalents:.1f} of the calls of {BASELINE} "
        f"(reference and winner alone would be 1/{least:.1f})"
    )


def _describe_one_prompt(one: Finished, many: Finished | None) -> str:
    both = one.reference + one.search
    line = f"{one.name}: {both.cloud + both.edge} model calls in all"
    held, other = (
        (found.config.score or {}).get("heldout", {}).get("quality") for found in (one, many or one)
    )
    if many is None or held is None or other is None:
        return line
    return f"{line}; quality {held:.4f} on held-out prompts, tuned on all prompts {other:.4f}"
