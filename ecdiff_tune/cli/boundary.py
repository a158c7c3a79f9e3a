"""Whether a winner lies on the boundary of the grid, so that a wider one may hold a better one."""

from __future__ import annotations

from collections.abc import Sequence

from ecdiff_tune.cli.stage import Found
from ecdiff_tune.metrics.intervals import is_tied
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.study.config_sections import objectives, ssims_of
from ecdiff_tune.study.spec import StudySpec


def boundary_note(spec: StudySpec, p: int, name: str, grid: Sequence[float], found: Found) -> list[str]:
    """A line where the winner lies at an end of what was searched and values beyond it may be better.

    They may where the objective still rises towards that end by more than these prompts leave open. A grid
    that begins at s' goes as far as eq. 11 wants an edge to take over: before it the burden pulls on. Beyond
    k = 1 there is the cloud alone, whose objective in stage 1 is known: w1.

    Args:
        p: the warm-up, which s cannot go below.
        name: of the dimension.
    """
    values = sorted(grid)
    value = getattr(found.winner.candidate.params, name)
    last = {"k": (0, spec.num_steps - 1), "alpha": (None, 1.0), "s": (p, spec.num_steps)}
    if spec.extend or len(values) < 2 or value in last[name] or value not in (values[0], values[-1]):
        return []
    if name == "s" and value == values[0] and min(spec.s_values) <= spec.earliest_s:
        return []
    if name == "k" and value == 1 and spec.weights.w1 <= found.winner.value:
        return []
    neighbours = [
        one
        for one in found.trials
        if one.state == "complete" and getattr(one.candidate.params, name) == _neighbour(values, value)
    ]
    best = max(neighbours, key=lambda one: one.value, default=None)
    if best is None or not _significantly_better(spec, found.winner, best):
        return []
    how = " (search.extend=true)" if spec.kind.extends else ""
    end = "smallest" if value == values[0] else "largest"
    return [
        f"note: {name} = {value:g} is the {end} of search.{name}, and the objective still rises towards it: "
        f"{shown(best.value)} at {name} = {_neighbour(values, value):g}, {shown(found.winner.value)} here. "
        f"A wider grid may hold a better one{how}."
    ]


def _neighbour(values: Sequence[float], end: float) -> float:
    return values[1] if end == values[0] else values[-2]


def _significantly_better(spec: StudySpec, winner: Trial, other: Trial) -> bool:
    """Whether these prompts tell the two objectives apart."""
    w1, seed = spec.weights.w1, spec.seed
    best, beaten = (
        objectives(one.score, ssims_of(one.measurements), w1) for one in (winner, other) if one.score
    )
    return not is_tied(best, beaten, seed)
