"""The parts of ``tune`` with a forecast, and about how many calls each takes, before any has begun."""

from __future__ import annotations

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import stage_name
from ecdiff_tune.study import files, reference_plan
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.references import References
from ecdiff_tune.study.spending import HELDOUT, SAMPLES
from ecdiff_tune.study.time_left import TimeLeft

CLOUD_SHARE, EDGE_SHARE = 0.18, 0.14
"""Calls of a generation as shares of T, until the forecast says which configs are measured."""
SHOWN = 8
"""Prompts of samples.png, each in two more ways, which take about T cloud and T edge calls together."""


def planned_parts(study: OpenStudy, references: References, latency: LatencyProfile) -> TimeLeft:
    """What ``tune`` will do in this run; each part says more exactly what it takes when it begins."""
    left = TimeLeft(study.spending, latency)
    plan_search(left, study, references, stage_name("joint"), *_calls(study, _generations(study, references)))
    if not (study.path / files.SAMPLES_GRID).is_file():
        steps, heldout = study.spec.num_steps, len(references.heldout_prompts)
        left.plan(HELDOUT, *_calls(study, heldout), heldout)
        left.plan(SAMPLES, 0.6 * SHOWN * steps, 0.5 * SHOWN * steps, 2 * SHOWN)
    return left


def plan_search(
    left: TimeLeft, study: OpenStudy, references: References, part: str, cloud: float, edge: float
) -> None:
    """Plan a search of so many calls at most, but for the share of its images that the ledger has."""
    most, names = _generations(study, references), set(references.drawn.keys)
    plan, ledger = reference_plan.read(study.path), study.ledger
    known = 0
    for key in ledger.configs():
        rows = ledger.read(key).keys() | (ledger.read(key, plan.name).keys() if plan else set())
        known += len(names & rows)
    share = max(0.0, 1 - known / most)
    left.plan(part, share * cloud, share * edge, share * most)


def _generations(study: OpenStudy, references: References) -> int:
    """Images that the search measures at most: of its finalists on the last rung, of the winner on all."""
    spec, everything = study.spec, len(references.drawn)
    if not spec.kind.prunes:
        return everything
    seen = (spec.options.prompts(everything) or (everything,))[-1]
    return spec.options.finalists * seen + (everything - seen) * (spec.options.until is None)


def _calls(study: OpenStudy, generations: int) -> tuple[float, float]:
    steps = study.spec.num_steps
    return CLOUD_SHARE * steps * generations, EDGE_SHARE * steps * generations
