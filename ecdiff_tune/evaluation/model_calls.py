"""What models' work is counted in, a prompt at a time: what a plan asks for, and what was really asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ecdiff_core.sampling.plan import Plan

KINDS = ("cloud", "edge", "decode")
"""Calls of the cloud and of the edge model with guidance, and decodes, as they are made."""
Calls = tuple[int, int]
"""Of the cloud and of the edge."""


@dataclass(frozen=True)
class PlanCalls:
    """What one image by a plan takes: calls of either model, and steps without one.

    The fields are named as the columns of every table and the attributes of an Optuna trial.
    """

    cloud_calls: int = 0
    approximated: int = 0
    edge_calls: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Counted from the plan alone."""
        return cls(plan.cloud_calls, plan.approximated, plan.edge_calls)
