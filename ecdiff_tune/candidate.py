"""What a search asks for, and what decides the pictures that come of it."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff_core.noise import get_estimator
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import HandoffAdapter, Plan


@dataclass(frozen=True)
class Candidate:
    """A config that may be searched: (p, k, alpha, s), and how approximated and edge steps are done."""

    params: ECDiffParams
    estimator: str = "gradient"
    handoff_adapter: HandoffAdapter = "identity"


@dataclass(frozen=True)
class ConfigKey:
    """What decides a picture, or the latents after some steps, besides the prompt.

    Candidates with equal keys give equal pictures. What changes nothing is left out: alpha is 0 where the
    schedule or the estimator does not use it; without approximated steps there is no estimator, and without
    edge steps no handoff adapter.
    """

    schedule: str
    alpha: float
    estimator: str
    handoff_adapter: str

    @classmethod
    def of(cls, candidate: Candidate, plan: Plan) -> ConfigKey:
        """The key of a candidate with that plan, or with the first steps of it."""
        uses_alpha = plan.uses_alpha and get_estimator(candidate.estimator).uses_alpha
        return cls(
            plan.schedule,
            candidate.params.alpha if uses_alpha else 0.0,
            candidate.estimator if plan.approximated else "",
            candidate.handoff_adapter if plan.edge_calls else "",
        )
