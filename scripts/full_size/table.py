"""The tables: what was measured, what the calls allow, and the paper's Table 6 beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecdiff_core.sampling.plan import Plan
from full_size.measure import ALONE, VARIANTS, Measured

PAPER_SECONDS = {
    "sd14_bksdm_small": (1.70, 1.18, 1.61, 1.39, 1.16),
    "sd14_bksdm_tiny": (1.70, 1.10, 1.58, 1.36, 1.05),
    "sdxl_ssd1b": (6.25, 4.29, 5.87, 5.28, 2.77),
    "sdxl_vega": (6.25, 3.27, 5.64, 4.76, 2.61),
    "cogvideox_5b_2b": (245, 91, 211.17, 165.95, 105.61),
}
"""EC-Diff Table 6, seconds a generation in the order of ``measure.VARIANTS``, transfer included."""

Measurements = dict[str, dict[str, Measured]]
"""By pair, then ``eager`` or ``compiled``."""
Rows = list[list[str]]

CALLS_HEADER = ["pair", "mode", "cloud call, s", "edge call, s", "edge / cloud", "decode, s", "transfer, s"]
GENERATIONS_HEADER = [
    "pair",
    "mode",
    "variant",
    "calls",
    "seconds",
    "spread",
    "speedup",
    "limit",
    "ratio",
    "with transfer",
    "paper: seconds",
    "paper: speedup",
    "paper: limit",
    "paper: ratio",
]


def headline(environment: dict[str, Any]) -> str:
    """Device, versions and size in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    rounds = f"{environment['repeats']} round" + ("s" if environment["repeats"] > 1 else "")
    return f"{environment['device']} · {versions} · size {environment['size']}, {rounds}"


def limit_by_calls(plan: Plan, cloud_call: float, edge_call: float) -> float:
    """The speedup over cloud only if a generation were its model calls alone; both in seconds a call."""
    spent = plan.cloud_calls * cloud_call + plan.edge_calls * edge_call
    return plan.num_steps * cloud_call / spent


def speedups(plan: Plan, alone: float, seconds: float, calls: tuple[float, float]) -> list[float]:
    """Speedup over ``alone`` (cloud only, seconds), the limit by ``calls``, and the ratio of the two."""
    speedup, limit = alone / seconds, limit_by_calls(plan, *calls)
    return [speedup, limit, speedup / limit]


def calls_rows(measurements: Measurements) -> Rows:
    """One row a pair and mode, seconds at batch 1."""
    rows = []
    for pair, modes in measurements.items():
        for mode, one in modes.items():
            cloud, edge = one.call("cloud"), one.call("edge")
            figures = (cloud, edge, edge / cloud, one.call("decode"), one.transfer_seconds)
            rows.append([pair, mode, *map(_figures, figures)])
    return rows


def generations_rows(measurements: Measurements) -> Rows:
    """One row a pair, mode and variant, the paper's figures at its end."""
    return [
        row
        for pair, modes in measurements.items()
        for mode, one in modes.items()
        for row in _pair_rows(pair, mode, one)
    ]


def _pair_rows(pair: str, mode: str, one: Measured) -> Rows:
    papers = dict(zip(VARIANTS, PAPER_SECONDS[pair], strict=True))
    paper_alone, paper_edge = papers[ALONE], papers["edge only"]
    alone = one.generations[ALONE].median
    rows = []
    for name, ran in one.generations.items():
        plan, steps, paper = ran.plan, ran.plan.num_steps, papers[name]
        ours = speedups(plan, alone, ran.median, (one.call("cloud"), one.call("edge")))
        theirs = speedups(plan, paper_alone, paper, (paper_alone / steps, paper_edge / steps))
        sent = one.transfer_seconds
        crossed = None if sent is None else ran.median + sent * plan.hands_over
        shared = "–" if crossed is None else _two(alone / crossed)
        cells = [_figures(ran.median), f"{ran.spread:.0%}", *map(_two, ours), shared]
        cells += [f"{paper:.2f}", *map(_two, theirs)]
        rows.append([pair, mode, name, f"{plan.cloud_calls} + {plan.edge_calls}", *cells])
    return rows


def _two(value: float) -> str:
    return f"{value:.2f}"


def _figures(value: float | None) -> str:
    """Three figures, as a plain number; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A table for a document."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(header: Sequence[str], rows: Rows) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
