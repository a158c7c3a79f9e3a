"""What a search is: ask for candidates, tell what came of them, until done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.objective import Score
from ecdiff_tune.search.options import Options


@dataclass(frozen=True)
class Ask:
    """What a search wants to know.

    Args:
        candidates: at least one; asked for together, they share model calls.
        prompts: measured on the first so many of the calibration set, which is in random order; None is all.
    """

    candidates: tuple[Candidate, ...]
    prompts: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a candidate.

    Args:
        value: the objective over the prompts that were asked for; minus infinity where it is infeasible.
        values: the objective of every such prompt alone, whose mean ``value`` is (but for timed trials, whose
            seconds are a median).
        score: what ``value`` is made of; None where it is infeasible.
    """

    value: float
    values: tuple[float, ...] = ()
    score: Score | None = None


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
class Cost:
    """What a candidate's picture costs by the latency profile."""

    seconds: float = 0.0
    cloud_calls: int = 0
    approximated: int = 0
    edge_calls: int = 0


@dataclass(frozen=True)
class Records:
    """What is kept of candidates beside what a search is told, for those who look on or work along.

    Args:
        read: a candidate's measurements on the first prompts, as many as there are.
        add: what another process measured on the first prompts, so that it is not generated here.
        picture: a file that shows it beside the cloud on a few prompts; None where there is none.
    """

    read: Callable[[Candidate], Sequence[Measurement]] = lambda _: ()
    add: Callable[[Candidate, Sequence[Measurement]], None] = lambda *_: None
    picture: Callable[[Candidate], Path | None] = lambda _: None


@dataclass(frozen=True)
class Context:
    """What a search may know without asking.

    Args:
        num_prompts: in the calibration set.
        objective: of a candidate if its quality were the second argument. Efficiency and burden follow from
            the plan, so that quality 1 gives an upper bound.
        predict: the quality of candidates, foretold from the reference run alone (``ecdiff_tune.forecast``).
        seed: of whatever a search draws.
        cost: of a candidate; its seconds decide between equal objectives.
        options: what a person set.
        records: what is kept of candidates.
    """

    num_prompts: int
    objective: Callable[[Candidate, float], float]
    predict: Callable[[Sequence[Candidate]], Sequence[float]]
    seed: int = 0
    cost: Callable[[Candidate], Cost] = lambda _: Cost()
    options: Options = field(default_factory=Options)
    records: Records = field(default_factory=Records)


class Search(Protocol):
    """Asks for candidates until done; deterministic, and never asks twice for a candidate on a prompt that
    it was told of."""

    @property
    def done(self) -> bool:
        """Whether there is nothing more to ask."""

    def ask(self) -> Ask:
        """What to evaluate next; the same until it is told."""

    def tell(self, results: Sequence[Result]) -> None:
        """What came of the candidates that were asked for last, in their order."""

    @property
    def best(self) -> Candidate | None:
        """The winner once ``done``, measured on all prompts; None where there is none."""

    @property
    def discarded(self) -> Mapping[Candidate, str]:
        """Candidates that were given up before they were measured on all prompts, and why."""
