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
    schedule and the estimator do not use it, as is the residual's factor without an edge step that it is
    added to; without approximated steps there is no estimator, and without calls of the edge model no handoff
    adapter. ``sampler`` is empty for the study's
    own scheduler, number of steps and reference; what else is compared with it has a name of its own there.
    """

    schedule: str
    alpha: float
    estimator: str
    handoff_adapter: str
    sampler: str = ""
    residual: float = 0.0

    @classmethod
    def of(cls, candidate: Candidate, plan: Plan) -> ConfigKey:
        """The key of a candidate with that plan, or with the first steps of it."""
        estimator = get_estimator(candidate.estimator)
        factors = candidate.params.factors(estimator)
        return cls(
            plan.schedule,
            candidate.params.alpha if plan.uses_alpha(estimator) else 0.0,
            candidate.estimator if plan.approximated else "",
            candidate.handoff_adapter if plan.edge_calls else "",
            residual=float(factors.residual) if plan.residual_steps else 0.0,
        )


def same_pictures(
    candidates: Iterable[Candidate], num_steps: int, handoff: Handoff
) -> dict[Candidate, Candidate]:
    """Every candidate, and the first of them that makes the same pictures."""
    first: dict[ConfigKey, Candidate] = {}
    keys = {one: ConfigKey.of(one, one.plan(num_steps, handoff)) for one in candidates}
    return {one: first.setdefault(key, one) for one, key in keys.items()}
