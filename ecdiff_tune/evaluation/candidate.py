"""What a search asks for, and what decides the images that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.estimators import REMEMBERED, get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan
from ecdiff_core.sampling.plan_of_params import plan


@dataclass(frozen=True)
class Candidate:
    """A config that may be searched: (p, k, alpha, s), and how approximated and edge steps are done.

    Args:
        handoff: where the edge takes over; None is as the study's sampling settings have it.
    """

    params: ECDiffParams
    estimator: str = "gradient"
    handoff_adapter: HandoffAdapter = "identity"
    handoff: Handoff | None = None

    def resolve(self, num_steps: int, handoff: Handoff, sampler: str = "") -> PlannedCandidate:
        """The candidate with its plan and key under these sampling settings: made here and passed on.

        Args:
            handoff: of the sampling settings.
            sampler: as ``ConfigKey.sampler``.

        Raises:
            ParamsError: there is no such plan.
        """
        steps = plan(self.params, num_steps, self.handoff or handoff, get_estimator(self.estimator))
        return PlannedCandidate(self, steps, ConfigKey.of(self, steps, sampler))


@dataclass(frozen=True)
class ConfigKey:
    """What decides an image, or the latents after some steps, besides the prompt.

    Candidates with equal keys give equal images. What changes nothing is left out: alpha is 0 where the
    schedule and the estimator do not use it, as is the residual's factor without an edge step that it is
    added to; without approximated steps there is no estimator, where its estimates are another's that other
    one's name stands, and without calls of the edge model there is no handoff adapter. ``sampler`` is empty
    for the study's own scheduler, number of steps and reference; what else is compared with it has a name of
    its own there.
    """

    schedule: str
    alpha: float
    estimator: str
    handoff_adapter: str
    sampler: str = ""
    residual: float = 0.0

    @classmethod
    def of(cls, candidate: Candidate, plan: Plan, sampler: str = "") -> ConfigKey:
        """The key of a candidate with that plan, or with the first steps of it."""
        estimator = get_estimator(candidate.estimator)
        factors = candidate.params.factors(estimator)
        return cls(
            plan.schedule,
            candidate.params.alpha if plan.uses_alpha(estimator) else 0.0,
            acting_estimator(candidate.estimator, plan),
            candidate.handoff_adapter if plan.edge_calls else "",
            sampler,
            residual=float(factors.residual) if plan.residual_steps else 0.0,
        )


def acting_estimator(name: str, plan: Plan) -> str:
    """The name of the estimator whose estimates a plan has; empty where it has none.

    >>> acting_estimator("newton2", Plan.from_schedule("2C5A1C")), acting_estimator("secant", Plan(()))
    ('secant', '')
    """
    if not plan.approximated:
        return ""
    simpler = get_estimator(name).with_two
    return name if simpler is None or plan.most_real_noises >= REMEMBERED else simpler


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate and all that follows from it: what every step does, and the key of its images."""

    candidate: Candidate
    plan: Plan
    key: ConfigKey

    @classmethod
    def of_config(cls, config: TunedConfig) -> PlannedCandidate:
        """What a search would have asked for to get that config."""
        sampling = config.sampling
        found = Candidate(config.params, sampling.estimator, sampling.handoff_adapter, sampling.handoff)
        return found.resolve(sampling.num_steps, sampling.handoff)


def same_images(
    candidates: Iterable[Candidate], num_steps: int, handoff: Handoff
) -> dict[Candidate, Candidate]:
    """Every candidate, and the first of them that makes the same images."""
    first: dict[ConfigKey, Candidate] = {}
    return {one: first.setdefault(one.resolve(num_steps, handoff).key, one) for one in candidates}
