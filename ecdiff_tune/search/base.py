"""What a search is: ask for candidates, tell what came of them, until done.

Every search is written as a generator: what it asks for, and what it does with the answer, in reading order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import Generic, Self

from typing_extensions import TypeVar

from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.model_calls import PlanCalls
from ecdiff_tune.objective import Score
from ecdiff_tune.search.options import Options, SearchError

C = TypeVar("C", default=Candidate)
"""What is searched: candidates, or points of a space of a person's own (``ecdiff_tune.searches``)."""


@dataclass(frozen=True)
class Ask(Generic[C]):
    """What a search wants to know.

    Args:
        candidates: at least one; asked for together, they share model calls.
        prompts: measured on the first so many of the calibration set, which is in random order; None is all.
    """

    candidates: tuple[C, ...]
    prompts: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a candidate.

    Args:
        value: the objective over the prompts that were asked for; minus infinity where it is infeasible.
        values: the objective of every such prompt alone, whose mean ``value`` is (but for timed trials, whose
            seconds are a median).
        score: what ``value`` is made of; None where it is infeasible.
        measurements: of every such prompt.
    """

    value: float
    values: tuple[float, ...] = ()
    score: Score | None = None
    measurements: tuple[Measurement, ...] = ()

    @classmethod
    def of(cls, values: float | Sequence[float]) -> Self:
        """What a function of a person's own has given.

        Args:
            values: of every prompt that was asked for, or of the one there is; the higher the better. Minus
                infinity of one says that the candidate cannot be used.
        """
        each = (float(values),) if isinstance(values, int | float | Real) else tuple(map(float, values))
        value = fmean(each)
        if value == float("-inf"):
            return cls(value, each)
        if not math.isfinite(value):
            expected = "to be a finite number, or minus infinity for what cannot be used"
            raise SearchError(key="a value", got=value, expected=expected)
        return cls(value, each, Score(value, 0.0, None, value))


@dataclass(frozen=True)
class Origin:
    """The trial of an Optuna study that a candidate comes from.

    Args:
        number: Optuna's.
        s: as it was suggested; an aligned handoff moves it to after the next real step. None in stage 1.
    """

    number: int
    s: int | None


@dataclass(frozen=True)
class Cost(PlanCalls):
    """What a candidate's image costs: calls by its plan, and seconds by the latency profile."""

    seconds: float = 0.0

    @classmethod
    def of(cls, plan: Plan, latency: LatencyProfile | None = None) -> Self:
        """By a plan; without a profile no seconds."""
        return replace(super().of(plan), seconds=0.0 if latency is None else latency.seconds(plan))


@dataclass(frozen=True)
class Records:
    """What a search that several processes and people share keeps of candidates.

    Args:
        add: keeps what another process measured on the first prompts, so that it is not generated here.
        image: a file that shows a candidate beside the cloud on a few prompts; None where there is none.
    """

    add: Callable[[Candidate, Sequence[Measurement]], None] = lambda *_: None
    image: Callable[[Candidate], Path | None] = lambda _: None


@dataclass(frozen=True)
class Context(Generic[C]):
    """What a search may know without asking.

    Args:
        num_prompts: in the calibration set.
        objective: of a candidate if its quality were the second argument. Efficiency and burden follow from
            the plan, so that quality 1 gives an upper bound.
        predict: the quality of candidates, predicted from the reference run alone (``ecdiff_tune.forecast``).
        seed: of whatever a search draws.
        cost: of a candidate; its seconds decide between equal objectives.
        options: what a person set.
        records: of candidates, for other processes and for people.
        bound: the highest objective that a candidate can have on a prompt; None where quality is SSIM, which
            is within -1 … 1.
    """

    num_prompts: int
    objective: Callable[[C, float], float]
    predict: Callable[[Sequence[C]], Sequence[float]]
    seed: int = 0
    cost: Callable[[C], Cost] = lambda _: Cost()
    options: Options = field(default_factory=Options)
    records: Records = field(default_factory=Records)
    bound: Callable[[C], float] | None = None

    def most(self, candidate: C) -> float:
        """The highest objective that it can have on a prompt that it was not measured on."""
        if self.bound is not None:
            return self.bound(candidate)
        return max(self.objective(candidate, quality) for quality in (-1.0, 1.0))


T = TypeVar("T")

Rounds = Generator[Ask, Sequence[Result], T]
"""Yields what to ask, is sent what came of it, returns what it found."""


class Search(Generic[C]):
    """Asks for candidates until done; deterministic, and never asks twice for a candidate on a prompt that
    it knows the result of.

    Args:
        rounds: returns the winner, measured on all prompts; None where there is none.
        pruned: why candidates were pruned before they were measured on all prompts; filled by ``rounds``.
        origins: of candidates in an Optuna study; filled by ``rounds``.
    """

    def __init__(
        self,
        rounds: Generator[Ask[C], Sequence[Result], C | None],
        pruned: Mapping[C, str] | None = None,
        origins: Mapping[C, Origin] | None = None,
    ) -> None:
        self._rounds = rounds
        self.pruned = {} if pruned is None else pruned
        self.origins = {} if origins is None else origins
        self._asked: Ask[C] | None = None
        self._best: C | None = None
        self._advance(None)

    @property
    def done(self) -> bool:
        """Whether there is nothing more to ask."""
        return self._asked is None

    def ask(self) -> Ask[C]:
        """What to evaluate next; the same until its results are there."""
        if self._asked is None:
            raise RuntimeError("The search is done; read best.")
        return self._asked

    def tell(self, results: Sequence[Result]) -> None:
        """What came of the candidates that were asked for last, in their order.

        Raises:
            SearchError: it is not as much as was asked for.
        """
        asked = self.ask()
        if len(results) != len(asked.candidates):
            expected = f"to be {len(asked.candidates)}, one a candidate that was asked for"
            raise SearchError(key="the number of results", got=len(results), expected=expected)
        for one in results if asked.prompts is not None else ():
            if one.value > float("-inf") and len(one.values) != asked.prompts:
                expected = f"to be {asked.prompts}, one a prompt that was asked for"
                raise SearchError(key="the number of values", got=len(one.values), expected=expected)
        self._advance(results)

    @property
    def best(self) -> C | None:
        """The winner once ``done``; None where there is none."""
        return self._best

    def _advance(self, results: Sequence[Result] | None) -> None:
        try:
            self._asked = next(self._rounds) if results is None else self._rounds.send(results)
        except StopIteration as finished:
            self._asked, self._best = None, finished.value
