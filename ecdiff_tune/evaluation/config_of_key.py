"""From a ledger's key back to a config that has it: what made such a plan, the paper's way first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, cast, get_args

from ecdiff_core.config import Sampling
from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey, PlannedCandidate


def config_of_key(key: ConfigKey, sampling: Sampling) -> PlannedCandidate | None:
    """A config with that key, by p and k where they make such steps, else by its real steps; or None.

    None too for what another sampler made.

    What the key leaves out changes no image: alpha is 1 there, estimator and handoff adapter the study's,
    and a schedule without approximated steps has p = k = 0.
    """
    if key.sampler:
        return None
    plan = Plan.from_schedule(key.schedule)
    if plan.num_steps != sampling.num_steps:
        return None
    adapter = cast(HandoffAdapter, key.handoff_adapter or sampling.handoff_adapter)
    handoffs = (None, *(one for one in get_args(Handoff) if one != sampling.handoff))
    for (params, estimator), handoff in product(_params_of(plan, key), handoffs):
        candidate = Candidate(params, estimator or sampling.estimator, adapter, handoff)
        try:
            config = candidate.resolve(sampling.num_steps, sampling.handoff)
        except ParamsError:  # the estimator needs another warm-up, or fills every step
            continue
        if config.key == key:
            return config
    return None


def _params_of(plan: Plan, key: ConfigKey) -> Iterator[tuple[ECDiffParams, str]]:
    """What may make such a plan, with the estimator, the paper's way first."""
    s, alpha, own = plan.handoff_step, key.alpha or 1.0, key.estimator
    letters = plan.letters.replace("B", "C")
    cloud_side, more = letters[:s], {"residual": key.residual, **_edge_side(letters[s:])}
    real = [step for step, letter in enumerate(letters) if letter == "C"]
    if "E" not in cloud_side and "M" not in cloud_side:
        if "A" not in cloud_side:
            yield ECDiffParams(0, 0, alpha, s, **more), own
        elif (p := cloud_side.index("A")) > 1:
            yield ECDiffParams(p, _run(cloud_side[p:]), alpha, s, **more), own
        if real[:1] == [0]:
            yield ECDiffParams.scheduled(real, alpha, s, **more), own
    if "A" not in letters and "M" in letters:  # edge steps in the place of approximated ones
        p, rho = letters.index("M"), key.residual
        end = len(letters.rstrip("E"))
        if p > 1:
            yield ECDiffParams(p, _run(letters[p:]), rho, end), "edge"
        yield ECDiffParams.scheduled(real, rho, end), "edge"
    edge = [step for step, letter in enumerate(letters) if letter in "EM"]
    if letters[:1] != "A":
        yield ECDiffParams.interleaved(real, edge, alpha, key.residual), own


def _edge_side(letters: str) -> dict[str, Any]:
    """``edge_k`` and what goes with it, which may have thinned an edge side so."""
    if "A" not in letters[1:]:
        return {}
    first = letters.index("A")
    last = len(letters) - 1 - letters.rindex("A")
    return {"edge_k": _run(letters[first:]), "edge_first": first, "edge_last": last}


def _run(letters: str) -> int:
    """How many letters are like the first."""
    return len(letters) - len(letters.lstrip(letters[0]))
