"""A space whose candidates are listed: the schedules that were proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from ecdiff_core.sampling.plan import Handoff
from ecdiff_tune.evaluation.candidate import Candidate, same_images

LEAST_CALLS = 3
"""Of the cloud calls of a schedule: the two that a first estimate needs, and one to place."""


@dataclass(frozen=True)
class ScheduleSpace:
    """Candidates of ``search=schedule``: real steps, alpha, s and estimator all at once.

    Args:
        proposed: at least one.
    """

    stage: ClassVar[Literal["joint"]] = "joint"
    proposed: tuple[Candidate, ...]
    num_steps: int
    handoff: Handoff = "aligned"

    @property
    def p(self) -> int:
        """The longest warm-up."""
        return max(one.params.warm_up for one in self.proposed)

    @cached_property
    def aliases(self) -> Mapping[Candidate, Candidate]:
        """Every candidate, and the one of the grid that makes the same images."""
        return same_images(self.proposed, self.num_steps, self.handoff)

    @property
    def grid(self) -> tuple[Candidate, ...]:
        """One candidate an image."""
        return tuple(dict.fromkeys(self.aliases.values()))
