"""The parts of ``tune`` with a forecast, and about how many calls each takes, before any has begun."""

from __future__ import annotations

from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import stage_name
from ecdiff_tune.search.base import Ask
from ecdiff_tune.search.options import LEAST_PROMPTS, Options
from ecdiff_tune.study import files, reference_plan
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.references import References
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.spending import FEWER_STEPS, FRONT, HELDOUT, SAMPLES
from ecdiff_tune.study.time_left import TimeLeft

CLOUD_SHARE, EDGE_SHARE = 0.18, 0.13
"""Calls of a generation as shares of T, until the forecast says which configs are measured."""
PAGE_SECONDS = 3.0
"""Of the figures and the page, which calls no model."""
FRONT_NEW, FRONT_CLOUD_SHARE = 0.5, 0.1
"""Of the front's limits those with a config of their own that is not measured, and the cloud calls of its
image as a share of T: many are of one trajectory."""
KEPT = 0.7
"""Of those that race, who is left after a rung."""
SHOWN = 8
"""Prompts of samples.png, each in two more ways, which take about T cloud and T edge calls together."""


def planned_parts(study: OpenStudy, references: References, latency: LatencyProfile) -> TimeLeft:
    """What ``tune`` will do in this run; each part says more exactly what it takes when it begins."""
    left = TimeLeft(study.spending, latency, PAGE_SECONDS)
    plan_search(left, study, references, stage_name("joint"), *_calls(study, _generations(study, references)))
    if not (study.path / files.SAMPLES_GRID).is_file():
        steps, heldout = study.spec.num_steps, len(references.heldout_prompts)
        left.plan(HELDOUT, *_calls(study, heldout), heldout)
        fewer, call = (
            min(study.spec.fewer_steps, heldout),
            latency.edge_call.median / latency.cloud_call.median,
        )
        cloud, edge = _calls(study, fewer)
        left.plan(FEWER_STEPS, cloud + call * edge, 0, fewer)
        front = FRONT_NEW * study.spec.front * min(LEAST_PROMPTS, len(references.drawn))
        left.plan(FRONT, FRONT_CLOUD_SHARE * steps * front, EDGE_SHARE * steps * front, front)
        left.plan(SAMPLES, 0.6 * SHOWN * steps, 0.5 * SHOWN * steps, 2 * SHOWN)
    return left


def plan_search(
    left: TimeLeft, study: OpenStudy, references: References, part: str, cloud: float, edge: float
) -> tuple[float, float]:
    """Plan a search of so many calls at most, but for what the ledger has of it; the calls of an image."""
    most, names = most_generations(study.spec, len(references.drawn)), set(references.drawn.keys)
    plan, ledger = reference_plan.read(study.path), study.ledger
    known = 0
    for key in ledger.configs():
        rows = ledger.read(key).keys() | (ledger.read(key, plan.name).keys() if plan else set())
        known += len(names & rows)
    expected = max(0.0, _generations(study, references) - known)
    left.plan(part, expected * cloud / most, expected * edge / most, expected)
    return cloud / most, edge / most


def plan_rest(
    left: TimeLeft,
    spec: StudySpec,
    part: str,
    each: tuple[float, float],
    ask: Ask,
    missing: int,
    everything: int,
) -> None:
    """Plan what is left of a search from a question on, by who still races.

    Args:
        each: calls of an image.
        missing: of how many of the prompts of ``ask`` there is not yet every measurement.
        everything: prompts.
    """
    if spec.options.min_quality is not None:  # a bisection, of which nobody knows how long it is
        return
    arms, rest = len(ask.candidates), 0.0
    if ask.prompts is not None:
        rest = generations_left(spec.options, everything, max(1.0, KEPT * arms), ask.prompts)
    images = arms * missing + rest
    left.plan(part, images * each[0], images * each[1], images)


def generations_left(options: Options, everything: int, arms: float, seen: int = 0) -> float:
    """Images that a race is likely to take: all arms to the next rung, fewer to each that follows, and the
    leader on what is left.

    >>> generations_left(Options((0.05, 0.1, 0.25)), 100, 8)
    201.8
    """
    images = 0.0
    for rung in [one for one in options.prompts(everything) or (everything,) if one > seen]:
        images += arms * (rung - seen)
        arms, seen = max(1.0, KEPT * arms), rung
    return round(images + (everything - seen) * (options.until is None), 6)


def most_generations(spec: StudySpec, everything: int) -> int:
    """Images that the search makes at most: of its finalists on the last rung, of the winner on all."""
    if not spec.kind.prunes:
        return everything
    seen = (spec.options.prompts(everything) or (everything,))[-1]
    return spec.options.finalists * seen + everything - seen


def _generations(study: OpenStudy, references: References) -> float:
    """Images that the search is likely to make."""
    spec, everything = study.spec, len(references.drawn)
    if not spec.kind.prunes:
        return everything
    return generations_left(spec.options, everything, spec.options.finalists)


def _calls(study: OpenStudy, generations: float) -> tuple[float, float]:
    steps = study.spec.num_steps
    return CLOUD_SHARE * steps * generations, EDGE_SHARE * steps * generations
