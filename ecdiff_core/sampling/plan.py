"""When: what every step of a generation does. The sampler obeys; everything else reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Literal, get_args

from ecdiff_core.errors import ParamsError, nearest
from ecdiff_core.sampling.params import ECDiffParams

if TYPE_CHECKING:
    from ecdiff_core.sampling.estimators import Estimator

Handoff = Literal["aligned", "exact"]
"""``aligned`` hands over after a correcting call (Algorithm 1); ``exact`` cuts hard at step s."""


HandoffAdapter = Literal["identity", "matched"]
"""What the edge model is told of the cloud's latents (``ecdiff_core.models.handoff``)."""

Mode = Literal["ecdiff", "hybrid", "cloud", "edge"]
"""As tuned, or one of the baselines."""


class Action(Enum):
    """Where the noise of one denoising step comes from."""

    CLOUD = "C"
    APPROX = "A"
    EDGE = "E"


_WITH_EDGE = {Action.CLOUD: "B", Action.APPROX: "M"}
"""In a schedule: both models called, and an estimate mixed with the edge model's noise."""


@dataclass(frozen=True)
class Plan:
    """One action a step, steps counted upwards from 0.

    Args:
        steps: where every step's noise comes from.
        edge_beside: steps of the cloud side at which the edge model is called too, for an estimator that goes
            by it. The cloud's machine holds both models then, so these calls cross no link.

    >>> str(plan(ECDiffParams(p=7, k=2, alpha=0.3, s=34), 50))
    '50 steps = 16 cloud + 18 approximated + 16 edge'
    """

    steps: tuple[Action, ...]
    edge_beside: frozenset[int] = frozenset()

    def until(self, end: int) -> Plan:
        """The first ``end`` steps."""
        return Plan(self.steps[:end], frozenset(step for step in self.edge_beside if step < end))

    def models(self, step: int) -> tuple[Action, ...]:
        """The models that are called at a step: ``CLOUD``, ``EDGE``, both in this order, or none."""
        own = () if self.steps[step] is Action.APPROX else (self.steps[step],)
        return (*own, Action.EDGE) if step in self.edge_beside else own

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.steps)

    @property
    def cloud_calls(self) -> int:
        """Real calls of the cloud model."""
        return self.steps.count(Action.CLOUD)

    @property
    def approximated(self) -> int:
        """Steps on the cloud side without a call of the cloud model."""
        return self.steps.count(Action.APPROX)

    @property
    def edge_steps(self) -> int:
        """Steps after the handoff."""
        return self.steps.count(Action.EDGE)

    @property
    def edge_calls(self) -> int:
        """Calls of the edge model, those beside the cloud's steps included."""
        return self.edge_steps + len(self.edge_beside)

    @property
    def handoff_step(self) -> int:
        """The first step of the edge model, T if there is none: the s that really happens."""
        return self.num_steps - self.edge_steps

    @property
    def hands_over(self) -> bool:
        """Whether both sides take part, so that latents cross the link."""
        return 0 < self.handoff_step < self.num_steps

    @property
    def windows(self) -> int:
        """How often one or more approximated steps follow a real one.

        >>> plan(ECDiffParams(p=4, k=2, alpha=0.3, s=10), 12).windows
        2
        """
        return sum(action is Action.APPROX for action, _ in groupby(self.steps))

    @property
    def schedule(self) -> str:
        """The actions, run-length encoded: two plans with the same schedule run the same steps.

        With the edge model called beside it a cloud step is B and an approximated step M.

        >>> plan(ECDiffParams(p=4, k=2, alpha=0.3, s=10), 12).schedule
        '4C2A1C2A1C2E'
        """
        letters = (
            _WITH_EDGE[action] if step in self.edge_beside else action.value
            for step, action in enumerate(self.steps)
        )
        return "".join(f"{len(list(run))}{letter}" for letter, run in groupby(letters))

    @classmethod
    def from_schedule(cls, schedule: str) -> Plan:
        """The plan that has this ``schedule``.

        >>> Plan.from_schedule("2C1B2M1B3E").schedule
        '2C1B2M1B3E'

        Raises:
            ParamsError: that is no run-length encoded schedule.
        """
        if not re.fullmatch(r"([1-9]\d*[CABME])*", schedule):
            raise ParamsError(f"Expected runs of the letters C, A, B, M, E such as 4C2A1C, got {schedule!r}.")
        letters = "".join(letter * int(count) for count, letter in re.findall(r"(\d+)(\w)", schedule))
        plain = {letter: action for action, letter in _WITH_EDGE.items()}
        beside = frozenset(step for step, letter in enumerate(letters) if letter in plain)
        return cls(tuple(plain.get(letter) or Action(letter) for letter in letters), beside)

    def __str__(self) -> str:
        text = (
            f"{self.num_steps} steps = {self.cloud_calls} cloud + {self.approximated} approximated"
            f" + {self.edge_steps} edge"
        )
        beside = len(self.edge_beside)
        return f"{text}, {beside} more edge calls beside the cloud's steps" if beside else text


def count_steps(scheduler: str, num_inference_steps: int) -> int:
    """T, the steps that p, k and s count: one a timestep that the scheduler makes, so one a model call.

    PNDM makes one more than it is asked for: it does its first step twice, the second time with the noise at
    the step's end.

    >>> count_steps("DDIMScheduler", 50), count_steps("PNDMScheduler", 50)
    (50, 51)
    """
    return num_inference_steps + (scheduler == "PNDMScheduler" and num_inference_steps > 1)


def effective_s(params: ECDiffParams, num_steps: int, handoff: Handoff) -> int:
    """The step at which the edge model really begins.

    ``exact``: s. ``aligned``: just after the first real step from s - 1 on, since Algorithm 1 looks at s only
    after a correcting call: the first p + m (k + 1) >= s, m = 0, 1, …, and at most T. Of a schedule that
    lists no more real steps s itself, for there is no correcting call to wait for.
    """
    if handoff == "exact" or params.s <= params.warm_up:
        return params.s
    after_real = (step + 1 for step in params.real_steps(num_steps) if step + 1 >= params.s)
    return next(after_real, num_steps if params.schedule is None else params.s)


def plan(
    params: ECDiffParams, num_steps: int, handoff: Handoff = "aligned", estimator: Estimator | None = None
) -> Plan:
    """What every one of ``num_steps`` steps does (EC-Diff Algorithm 1).

    Args:
        estimator: one that calls the edge model does so at every approximated step and at the last real step
            before each window; None is one that does not.

    Raises:
        ParamsError: s or a listed step is beyond the number of steps, the estimator needs more real noises
            before its first estimate, or the handoff is unknown.
    """
    if handoff not in get_args(Handoff):
        raise ParamsError(f"Unknown handoff {handoff!r}: {nearest(str(handoff), get_args(Handoff))}.")
    if num_steps < 1:
        raise ParamsError(f"Expected at least one step, got {num_steps}.")
    if params.s > num_steps:
        raise ParamsError(
            f"Expected s <= T, the number of steps, got s={params.s} with {num_steps} steps. "
            "Lower s or raise num_inference_steps."
        )
    if params.schedule is not None and params.schedule[-1] >= num_steps:
        raise ParamsError(
            f"Expected a schedule within 0 … {num_steps - 1}, got step {params.schedule[-1]} with "
            f"{num_steps} steps. Shorten it or raise num_inference_steps."
        )
    s, real = effective_s(params, num_steps, handoff), set(params.real_steps(num_steps))
    cloud_side = [Action.CLOUD if step in real else Action.APPROX for step in range(s)]
    needed = 2 if estimator is None else estimator.real_noises
    if Action.APPROX in cloud_side[:needed]:
        raise ParamsError(
            f"Expected the schedule to start with {list(range(needed))}, got {list(params.schedule or ())}: "
            f"the estimator needs {needed} real noises before its first estimate."
        )
    beside: frozenset[int] = frozenset()
    if estimator is not None and estimator.calls_edge:
        beside = frozenset(i for i in range(s) if Action.APPROX in cloud_side[i : i + 2])
    return Plan((*cloud_side, *[Action.EDGE] * (num_steps - s)), beside)
