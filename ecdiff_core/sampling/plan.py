"""When: what every step of a generation does. The sampler obeys; everything else reads.

A step is a call of the cloud model, a call of the edge model, or approximated, in any order. The noise of
step i is

    cloud_i                                  of a cloud step,
    edge_i + rho_i (cloud_r - edge_r)        of an edge step, r the last step at which both were asked,
    what the estimator makes of the noises used at earlier real steps, whoever made them,
                                             of an approximated step;

rho_i is 0 in the paper. Where it is not, r is the last cloud step before i: the edge model is asked there
too, once, as soon as the residual is needed. Ours, as are approximated steps at the edge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from ecdiff_core.errors import ParamsError

if TYPE_CHECKING:
    from ecdiff_core.sampling.estimators import Estimator

Handoff = Literal["aligned", "exact"]
"""``aligned`` hands over after a correcting call (Algorithm 1); ``exact`` cuts hard at step s."""


HandoffAdapter = Literal["identity", "matched"]
"""How the edge model is given the cloud's latents (``ecdiff_core.models.handoff``)."""

Mode = Literal["ecdiff", "hybrid", "cloud", "edge"]
"""As tuned, or one of the baselines."""


class Action(Enum):
    """Where the noise of one denoising step comes from."""

    CLOUD = "C"
    APPROX = "A"
    EDGE = "E"


_LETTERS = {"C": Action.CLOUD, "B": Action.CLOUD, "A": Action.APPROX, "E": Action.EDGE, "M": Action.EDGE}
"""Of a schedule: B is a cloud step at which the edge model is asked too, M an edge step with the residual."""


@dataclass(frozen=True)
class Plan:
    """One action a step, steps counted upwards from 0.

    Args:
        steps: where every step's noise comes from.
        residual_steps: edge steps whose noise gets the residual of the last cloud step before it.

    >>> str(Plan.from_schedule("7C" + 9 * "2A1C" + "16E"))
    '50 steps = 16 cloud + 18 approximated + 16 edge'
    """

    steps: tuple[Action, ...]
    residual_steps: frozenset[int] = frozenset()

    def until(self, end: int) -> Plan:
        """The first ``end`` steps."""
        return Plan(self.steps[:end], frozenset(step for step in self.residual_steps if step < end))

    @cached_property
    def both_asked(self) -> dict[int, int]:
        """Cloud steps of which a residual is made, each with the edge step that needs it first."""
        found: dict[int, int] = {}
        last = None
        for step, action in enumerate(self.steps):
            if action is Action.CLOUD:
                last = step
            elif step in self.residual_steps and last is not None:
                found.setdefault(last, step)
        return found

    def models(self, step: int) -> tuple[Action, ...]:
        """The models that are called when a step is done: none, ``CLOUD``, ``EDGE``, or ``EDGE`` twice, where
        a residual is needed for the first time."""
        action = self.steps[step]
        if action is Action.APPROX:
            return ()
        return (action, action) if step in self.both_asked.values() else (action,)

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
        """Steps without a call of a model."""
        return self.steps.count(Action.APPROX)

    @property
    def most_real_noises(self) -> int:
        """Real noises before the last approximated step, of which its estimate may be made.

        >>> Plan.from_schedule("2C3A1C4E").most_real_noises, Plan.from_schedule("2C3A1C1A3E").most_real_noises
        (2, 3)
        """
        before = "".join(action.value for action in self.steps).rpartition("A")[0]
        return len(before) - before.count("A")

    @property
    def edge_steps(self) -> int:
        """Steps with the edge model's noise."""
        return self.steps.count(Action.EDGE)

    @property
    def edge_calls(self) -> int:
        """Calls of the edge model, those for the residual included."""
        return self.edge_steps + len(self.both_asked)

    @property
    def cloud_share(self) -> float:
        """Cloud calls / T: what is paid of the big model."""
        return self.cloud_calls / max(1, self.num_steps)

    @property
    def handoff_step(self) -> int:
        """The first edge step after the last cloud call, T if there is none: the s that really happens, from
        which on the cloud's machine is free."""
        after = self.num_steps - next(
            (i for i, action in enumerate(reversed(self.steps)) if action is Action.CLOUD), self.num_steps
        )
        rest = self.steps[after:]
        return after + rest.index(Action.EDGE) if Action.EDGE in rest else self.num_steps

    @property
    def first_edge_step(self) -> int:
        """T if there is none. From it on the edge's machine does every step but the cloud's."""
        return self.steps.index(Action.EDGE) if Action.EDGE in self.steps else self.num_steps

    def on_cloud(self, step: int) -> bool:
        """Whether the cloud's machine does a step, when there are two machines."""
        return step < self.first_edge_step or self.steps[step] is Action.CLOUD

    @cached_property
    def later_cloud_steps(self) -> tuple[int, ...]:
        """With a cloud call after the first edge step, for which latents go up and noise comes down."""
        first = self.first_edge_step
        return tuple(step for step in range(first, self.num_steps) if self.steps[step] is Action.CLOUD)

    @property
    def _begins_on_cloud(self) -> bool:
        return Action.CLOUD in self.steps[: self.first_edge_step] and self.first_edge_step < self.num_steps

    @cached_property
    def crossings_by_step(self) -> dict[int, int]:
        """How often something crosses the link for a step: once for the first edge step after cloud calls,
        twice for every later cloud call.

        >>> Plan.from_schedule("2C3E1C4E").crossings_by_step
        {2: 1, 5: 2}
        """
        first = self.first_edge_step
        found = {first: 1} if self._begins_on_cloud else {}
        return found | dict.fromkeys(self.later_cloud_steps, 2)

    @property
    def crossings(self) -> int:
        """How often something crosses the link.

        >>> Plan.from_schedule("2C3A1C4E").crossings, Plan.from_schedule("2C3E1C4E").crossings
        (1, 3)
        """
        return sum(self.crossings_by_step.values())

    @property
    def exchanges(self) -> int:
        """How often the edge asks the cloud and waits: for the handoff, and for every later cloud call.

        >>> Plan.from_schedule("2C3A1C4E").exchanges, Plan.from_schedule("2C3E1C4E").exchanges
        (1, 2)
        """
        return self._begins_on_cloud + len(self.later_cloud_steps)

    @property
    def tensors_sent(self) -> int:
        """How many tensors of the latents' shape cross in all.

        A handoff sends the latents, and the last noise where the edge approximates its second step. For a
        residual it sends the latents before the last cloud call and that call's noise, of which the edge
        makes it with one call of its own, so that the cloud's machine needs no edge model; where steps
        were approximated since, also the latents of now. A later cloud call sends latents up and noise down.

        >>> Plan.from_schedule("2C3A1C4E").tensors_sent, Plan.from_schedule("2C3A1B4M").tensors_sent
        (1, 2)
        >>> Plan.from_schedule("2C2A1B2A3M").tensors_sent
        3
        """
        return self._tensors_at_handoff * self._begins_on_cloud + 2 * len(self.later_cloud_steps)

    @property
    def _tensors_at_handoff(self) -> int:
        first = self.first_edge_step
        if first in self.residual_steps:
            return 2 + (self.steps[first - 1] is not Action.CLOUD)
        return 1 + (self.steps[first + 1 : first + 2] == (Action.APPROX,))

    @property
    def hands_over(self) -> bool:
        """Whether both models take part, so that something crosses the link."""
        return self.crossings > 0

    @property
    def schedule(self) -> str:
        """The actions, run-length encoded: two plans with the same schedule run the same steps.

        A cloud step at which the edge model is asked too is B, an edge step with the residual M.
        """
        return "".join(f"{len(list(run))}{letter}" for letter, run in groupby(self.letters))

    @property
    def letters(self) -> str:
        """``schedule`` written out, one letter a step."""
        return "".join(
            "B" if step in self.both_asked else "M" if step in self.residual_steps else action.value
            for step, action in enumerate(self.steps)
        )

    @classmethod
    def from_schedule(cls, schedule: str) -> Plan:
        """The plan that has this ``schedule``.

        >>> Plan.from_schedule("2C1B2M1C3E").schedule
        '2C1B2M1C3E'

        Raises:
            ParamsError: that is no run-length encoded schedule.
        """
        if not re.fullmatch(r"([1-9]\d*[CABME])*", schedule):
            raise ParamsError(
                key="a schedule", got=schedule, expected="of runs of the letters C, A, B, M, E such as 4C2A1C"
            )
        letters = "".join(letter * int(count) for count, letter in re.findall(r"(\d+)(\w)", schedule))
        residual = frozenset(step for step, letter in enumerate(letters) if letter == "M")
        return cls(tuple(_LETTERS[letter] for letter in letters), residual)

    def uses_alpha(self, estimator: Estimator) -> bool:
        """Whether alpha changes the result.

        >>> from ecdiff_core.sampling.estimators import get_estimator
        >>> gradient, secant = get_estimator("gradient"), get_estimator("secant")
        >>> first = Plan.from_schedule("2C3A1C1E")
        >>> first.uses_alpha(gradient), first.uses_alpha(secant)
        (False, True)
        """
        if estimator.alpha_scales == "none":
            return False
        pattern = "A" if estimator.alpha_scales == "every window" else "A[CE]A"
        return re.search(pattern, "".join(action.value for action in self.steps)) is not None

    def __str__(self) -> str:
        text = (
            f"{self.num_steps} steps = {self.cloud_calls} cloud + {self.approximated} approximated"
            f" + {self.edge_steps} edge"
        )
        more = len(self.both_asked)
        return f"{text}, {more} more edge call{'s'[: more > 1]} for the residual" if more else text
