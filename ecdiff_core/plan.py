"""When: what every step of a generation does. The sampler obeys; everything else reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Literal, get_args

from ecdiff_core.errors import ParamsError, nearest
from ecdiff_core.params import ECDiffParams

Handoff = Literal["aligned", "exact"]
"""``aligned`` hands over after a correcting call (Algorithm 1); ``exact`` cuts hard at step s."""


HandoffAdapter = Literal["identity", "matched"]
"""What the edge model is told of the cloud's latents (``ecdiff_core.handoff``)."""

Mode = Literal["ecdiff", "hybrid", "cloud", "edge"]
"""As tuned, or one of the baselines."""


class Action(Enum):
    """What one denoising step does."""

    CLOUD = "C"
    APPROX = "A"
    EDGE = "E"


@dataclass(frozen=True)
class Plan:
    """One action a step, steps counted upwards from 0.

    >>> str(plan(ECDiffParams(p=7, k=2, alpha=0.3, s=34), 50))
    '50 steps = 16 cloud + 18 approximated + 16 edge'
    """

    steps: tuple[Action, ...]

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
        """Steps on the cloud side without a model call."""
        return self.steps.count(Action.APPROX)

    @property
    def edge_calls(self) -> int:
        """Calls of the edge model."""
        return self.steps.count(Action.EDGE)

    @property
    def handoff_step(self) -> int:
        """The first step of the edge model, T if there is none: the s that really happens."""
        return self.num_steps - self.edge_calls

    @property
    def hands_over(self) -> bool:
        """Whether both sides take part, so that latents cross the link."""
        return 0 < self.handoff_step < self.num_steps

    @property
    def uses_alpha(self) -> bool:
        """Whether alpha can change the result: it acts only after the first correcting call (eq. 6)."""
        schedule = "".join(action.value for action in self.steps)
        first = schedule.find("A")
        correction = schedule.find("C", first) if first >= 0 else -1
        return correction >= 0 and "A" in schedule[correction:]

    @property
    def schedule(self) -> str:
        """The actions, run-length encoded: two plans with the same schedule run the same steps.

        >>> plan(ECDiffParams(p=4, k=2, alpha=0.3, s=10), 12).schedule
        '4C2A1C2A1C2E'
        """
        return "".join(f"{len(list(run))}{action.value}" for action, run in groupby(self.steps))

    def __str__(self) -> str:
        return (
            f"{self.num_steps} steps = {self.cloud_calls} cloud + {self.approximated} approximated"
            f" + {self.edge_calls} edge"
        )


def count_steps(scheduler: str, num_inference_steps: int) -> int:
    """T, the steps that p, k and s count: one a timestep that the scheduler makes, so one a model call.

    PNDM makes one more than it is asked for: it does its first step twice, the second time with the noise at
    the step's end.

    >>> count_steps("DDIMScheduler", 50), count_steps("PNDMScheduler", 50)
    (50, 51)
    """
    return num_inference_steps + (scheduler == "PNDMScheduler" and num_inference_steps > 1)


def is_real(step: int, p: int, k: int) -> bool:
    """Whether the cloud model is called at ``step`` on the cloud side (Algorithm 1)."""
    return step < p or (step + 1 - p) % (k + 1) == 0


def effective_s(params: ECDiffParams, num_steps: int, handoff: Handoff) -> int:
    """The step at which the edge model really begins.

    ``exact``: s. ``aligned``: the first p + m (k + 1) >= s, m = 0, 1, …, and at most T, since Algorithm 1
    looks at s only after a correcting call.
    """
    if handoff == "exact":
        return params.s
    cycles = -(-(params.s - params.p) // (params.k + 1))
    return min(params.p + cycles * (params.k + 1), num_steps)


def plan(params: ECDiffParams, num_steps: int, handoff: Handoff = "aligned") -> Plan:
    """What every one of ``num_steps`` steps does (EC-Diff Algorithm 1).

    Raises:
        ParamsError: s is beyond the number of steps, or the handoff is unknown.
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
    s = effective_s(params, num_steps, handoff)
    cloud_side = (Action.CLOUD if is_real(i, params.p, params.k) else Action.APPROX for i in range(s))
    return Plan((*cloud_side, *[Action.EDGE] * (num_steps - s)))
