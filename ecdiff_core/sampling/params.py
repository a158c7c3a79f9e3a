"""The numbers that say how cloud and edge share a generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ecdiff_core.errors import ParamsError

if TYPE_CHECKING:
    from ecdiff_core.sampling.estimators import Alpha, Estimator

MAX_SEED = 2**62
"""Prompts take the seeds that follow it; torch's end at 2^64."""
LEAST_P = 2
"""Of a warm-up before approximated steps: eq. 3 needs two noises."""


@dataclass(frozen=True)
class Factors:
    """What scales the terms of a plan's noises.

    Args:
        alpha: of the estimator.
        residual: rho of the edge steps with the residual.
    """

    alpha: Alpha
    residual: Alpha = 0.0


@dataclass(frozen=True, repr=False)
class ECDiffParams:
    """(p, k, alpha, s) of EC-Diff, in the paper's letters; steps count upwards from 0.

    Which steps of the cloud side are real follows from p and k, or by a schedule in their place. What follows
    ``schedule`` is ours; its defaults are the paper's scheme.

    Args:
        p: warm-up steps with real cloud calls; 0 … s, and at least 2 when k >= 1 (eq. 3 needs two noises).
        k: approximated steps between two real cloud calls; 0 means none (HybridSD).
        alpha: factor of the noise gradient after a correcting call (eq. 6), 0 < alpha <= 1; what it scales
            in other estimators they say themselves (``ecdiff_core.sampling.estimators``).
        s: steps done on the cloud side, 0 … T. s = 0 is edge only; k = 0 and s = T is cloud only.
        schedule: the steps with real cloud calls, strictly increasing from 0 on; p and k are None then. What
            it lists from the handoff on does not happen.
        edge_k: approximated steps between two real edge calls; 0 means none.
        edge_first, edge_last: edge steps at the beginning (at least 1) and at the end (at least 0) that are
            real whatever edge_k is. The noise changes most in the last two steps.
        residual: the factor rho, 0 … 1, of what lay between cloud and edge at the last cloud step, which is
            added to the noise of every edge step (``ecdiff_core.sampling.plan``); 0 adds nothing.
        edge_schedule: the steps with real edge calls, strictly increasing, beside a schedule of those with
            cloud calls: either may come first, and they may take turns. Steps in neither are approximated;
            edge_k does not apply, and s is the step after the last cloud call.

    Raises:
        ParamsError: a value is out of range.

    >>> ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    """

    p: int | None
    k: int | None
    alpha: float
    s: int
    schedule: tuple[int, ...] | None = None
    edge_k: int = 0
    edge_first: int = 2
    edge_last: int = 2
    residual: float = 0.0
    edge_schedule: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_factor("alpha", self.alpha, zero=False)
        _check_factor("residual", self.residual, zero=True)
        _check_whole("edge_k", self.edge_k)
        _check_whole("edge_first", self.edge_first, least=1)
        _check_whole("edge_last", self.edge_last)
        _check_whole("s", self.s)
        if self.edge_schedule is not None:
            self._check_lists()
            return
        if self.schedule is None:
            _check_p_and_k(self.p, self.k, self.s)
            return
        self._check_no_p_and_k()
        object.__setattr__(self, "schedule", _checked_schedule("schedule", self.schedule))
        if self.real_steps(1) != (0,):
            raise ParamsError(key="the schedule", got=list(self.schedule), expected="to start with step 0")

    def _check_no_p_and_k(self) -> None:
        if (self.p, self.k) != (None, None):
            given = {"p": self.p, "k": self.k, "schedule": list(self.schedule or ())}
            raise ParamsError(key="p and k", got=given, expected="or a schedule in their place")

    def _check_lists(self) -> None:
        """Of a schedule for both models."""
        assert self.edge_schedule is not None
        self._check_no_p_and_k()
        if self.edge_k:
            given = {"edge_k": self.edge_k, "edge_schedule": list(self.edge_schedule)}
            raise ParamsError(key="edge_k", got=given, expected="or an edge_schedule in its place")
        cloud = _checked_schedule("schedule", self.schedule or ())
        edge = _checked_schedule("edge_schedule", self.edge_schedule)
        both = sorted(set(cloud) & set(edge))
        if both:
            raise ParamsError(
                f"Expected every step in schedule or in edge_schedule, got {both} in both.",
                key="schedule and edge_schedule",
                got=both,
                advice="Where both models are asked for the residual follows from it.",
            )
        if 0 not in (*cloud[:1], *edge[:1]):
            given = {"schedule": list(cloud), "edge_schedule": list(edge)}
            raise ParamsError(key="step 0", got=given, expected="in schedule or in edge_schedule")
        if self.s != _after(cloud):
            expected = f"= {_after(cloud)} with an edge_schedule, the step after the last cloud call"
            raise ParamsError(key="s", got=self.s, expected=expected)
        object.__setattr__(self, "schedule", cloud)
        object.__setattr__(self, "edge_schedule", edge)

    def __repr__(self) -> str:
        return f"ECDiffParams({', '.join(f'{name}={value!r}' for name, value in self.tree().items())})"

    def tree(self) -> dict[str, Any]:
        """The values by name, as far as they say something: neither None nor the paper's default.

        >>> ECDiffParams.scheduled([0, 1, 4], alpha=0.5, s=6, residual=1.0).tree()
        {'alpha': 0.5, 's': 6, 'schedule': (0, 1, 4), 'residual': 1.0}
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.edge_k:  # nothing is approximated at the edge
            values["edge_first"] = values["edge_last"] = None
        given = {name: value for name, value in values.items() if value is not None}
        silent = {name for name in ("edge_k", "residual") if not given[name]}
        return {name: value for name, value in given.items() if name not in silent}

    @property
    def extends_paper(self) -> bool:
        """Whether there is anything that the paper's scheme does not have, a schedule apart."""
        return not self.tree().keys() <= _PAPER

    @classmethod
    def scheduled(cls, schedule: Sequence[int], alpha: float, s: int, **others: Any) -> ECDiffParams:
        """Real cloud calls at the listed steps alone; ``others`` are what follows the schedule.

        >>> ECDiffParams.scheduled([0, 1, 2, 4, 7], alpha=0.5, s=10).real_steps(50)
        (0, 1, 2, 4, 7)
        """
        return cls(None, None, alpha, s, tuple(schedule), **others)

    @classmethod
    def interleaved(
        cls, schedule: Sequence[int], edge_schedule: Sequence[int], alpha: float, residual: float = 0.0
    ) -> ECDiffParams:
        """Real calls of both models at the listed steps alone.

        >>> ECDiffParams.interleaved([0, 1, 6], [2, 3, 9], alpha=0.5, residual=1.0).s
        7
        """
        s, lists = _after(schedule), (tuple(schedule), tuple(edge_schedule))
        return cls(None, None, alpha, s, lists[0], residual=residual, edge_schedule=lists[1])

    def real_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps below ``num_steps`` at which the cloud model is called, were there no handoff.

        >>> ECDiffParams(p=3, k=2, alpha=0.3, s=9).real_steps(12)
        (0, 1, 2, 5, 8, 11)
        """
        if self.schedule is not None:
            return tuple(step for step in self.schedule if step < num_steps)
        p, k = self.p or 0, self.k or 0
        return tuple(step for step in range(num_steps) if step < p or (step + 1 - p) % (k + 1) == 0)

    @property
    def warm_up(self) -> int:
        """Real cloud steps before the first other one: p, or the unbroken start of the schedule."""
        return self.p or 0 if self.schedule is None else _unbroken(self.schedule)

    def factors(self, estimator: Estimator) -> Factors:
        """alpha and the residual's factor, as the sampler takes them."""
        return Factors(self.alpha, self.alpha if estimator.fills_with_edge else self.residual)

    def scaled(self, num_steps: int, wanted: int) -> ECDiffParams:
        """For another number of steps T: p, s and schedules in proportion, the rest as it is.

        >>> ECDiffParams(p=7, k=2, alpha=0.3, s=34).scaled(50, 25)
        ECDiffParams(p=4, k=2, alpha=0.3, s=17)
        """
        factor = wanted / num_steps
        s = round(self.s * factor)
        if self.schedule is None:
            p = min(max(round(self.warm_up * factor), min(LEAST_P, self.warm_up)), wanted)
            return replace(self, p=p, k=self.k if p < wanted else 0, s=max(s, p))
        lists = (self.schedule, self.edge_schedule or ())
        begin = set(range(min(LEAST_P, _unbroken([*lists[0], *lists[1]]), wanted)))
        first = [begin.intersection(one) for one in lists]  # each stays its own model's
        cloud, edge = ({min(round(step * factor), wanted - 1) for step in one} - begin for one in lists)
        schedule = tuple(sorted(cloud | first[0]))
        if self.edge_schedule is None:
            return replace(self, s=s, schedule=schedule)
        edge_schedule = tuple(sorted((edge - cloud) | first[1]))
        return replace(self, s=_after(schedule), schedule=schedule, edge_schedule=edge_schedule)

    @classmethod
    def cloud_only(cls, num_steps: int) -> ECDiffParams:
        """The baseline in which the cloud model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=num_steps)

    @classmethod
    def edge_only(cls) -> ECDiffParams:
        """The baseline in which the edge model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=0)

    @classmethod
    def hybrid(cls, s: int) -> ECDiffParams:
        """HybridSD (arXiv 2408.06646): s real cloud steps, then the edge model."""
        return cls(p=0, k=0, alpha=1.0, s=s)


_PAPER = {"p", "k", "alpha", "s", "schedule"}


def _unbroken(schedule: Sequence[int]) -> int:
    """How many steps from 0 on a schedule lists without a gap."""
    return next((i for i, step in enumerate(sorted(schedule)) if step != i), len(schedule))


def _after(schedule: Sequence[int]) -> int:
    return schedule[-1] + 1 if schedule else 0


def _check_whole(name: str, value: object, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ParamsError(key=name, got=value, expected=f"to be a whole number >= {least}")


def _check_factor(name: str, value: object, zero: bool) -> None:
    limits = f"{'0 <=' if zero else '0 <'} {name} <= 1"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ParamsError(key=name, got=value, expected=f"to be a number, {limits}")
    if not 0 <= value <= 1 or (value == 0 and not zero):
        advice = "0 is the paper's scheme, 1 the whole residual." if zero else "The paper searches 0.1 … 0.9."
        line = f"Expected {limits}, got {name}={value}."
        raise ParamsError(line, key=name, got=value, expected=limits, advice=advice)


def _check_p_and_k(p: int | None, k: int | None, s: int) -> None:
    if p is None or k is None:
        lacking = "p" if p is None else "k"
        raise ParamsError(
            key=lacking,
            expected="to be a whole number >= 0",
            advice="Give p and k, or a schedule in their place.",
        )
    _check_whole("p", p)
    _check_whole("k", k)
    if p > s:
        advice = "Lower p or raise s (steps count from the start)."
        raise ParamsError(key="p", got={"p": p, "s": s}, expected="<= s", advice=advice)
    if k >= 1 and p < LEAST_P:
        raise ParamsError(
            key="p",
            got={"p": p, "k": k},
            expected=f">= {LEAST_P} when k >= 1",
            advice="The first gradient (eq. 3) needs two real noises; use k=0 to run without approximation.",
        )


def _checked_schedule(name: str, schedule: Sequence[int]) -> tuple[int, ...]:
    listed = list(schedule)
    for step in listed:
        _check_whole(f"every step of the {name}", step)
    for step, following in pairwise(listed):
        if following <= step:
            line = f"Expected a strictly increasing {name}, got {following} after {step} in {listed}."
            raise ParamsError(line, key=name, got=listed, expected="strictly increasing")
    return tuple(listed)
