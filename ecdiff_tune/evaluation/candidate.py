"""What a search asks for, and what decides the pictures that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan, plan


@dataclass(frozen=True)
class Candidate:
    """A config that may be searched: (p, k, alpha, s), and how approximated and edge steps are done."""

    params: ECDiffParams
    estimator: str = "gradient"
    handoff_adapter: HandoffAdapter = "identity"

    def plan(self, num_steps: int, handoff: Handoff) -> Plan:
        """What every step does."""
        return plan(self.params, num_steps, handoff, get_estimator(self.estimator))


@dataclass(frozen=True)
class ConfigKey:
    """What decides a picture, or the latents after some steps, besides the prompt.

    Candidates with equal keys give equal pictures. What changes nothing is left out: alpha is 0 where the
    schedule and the estimator do not use it; without approximated steps, or calls that prepare them, there is
    no estimator, and without calls of the edge model no handoff adapter. ``sampler`` is empty for the study's
    own scheduler, number of steps and reference; what else is compared with it has a name of its own there.
    """

    schedule: str
    alpha: float
    estimator: str
    handoff_adapter: str
    sampler: str = ""

    @classmethod
    def of(cls, candidate: Candidate, plan: Plan) -> ConfigKey:
        """The key of a candidate with that plan, or with the first steps of it."""
        return cls(
            plan.schedule,
            alpha_in_use(candidate.params, plan, candidate.estimator) or 0.0,
            candidate.estimator if plan.approximated or plan.edge_beside else "",
            candidate.handoff_adapter if plan.edge_calls else "",
        )


def alpha_in_use(params: ECDiffParams, plan: Plan, estimator: str) -> float | None:
    """alpha; None where the schedule and the estimator do not use it, so that it changes no picture."""
    return params.alpha if get_estimator(estimator).uses_alpha_in(plan.windows) else None


def same_pictures(
    candidates: Iterable[Candidate], num_steps: int, handoff: Handoff
) -> dict[Candidate, Candidate]:
    """Every candidate, and the first of them that makes the same pictures."""
    first: dict[ConfigKey, Candidate] = {}
    keys = {one: ConfigKey.of(one, one.plan(num_steps, handoff)) for one in candidates}
    return {one: first.setdefault(key, one) for one, key in keys.items()}
