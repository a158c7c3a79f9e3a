"""A search written as a generator: what it asks for, and what it does with the answer, in reading order."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TypeVar

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Origin, Result

T = TypeVar("T")

Rounds = Generator[Ask, Sequence[Result], T]
"""Yields what to ask, is sent what came of it, returns what it found."""


class Scripted:
    """``Search`` over such a generator, which returns the winner.

    Args:
        discarded, origins: filled by the generator as it goes on.
    """

    def __init__(
        self,
        rounds: Rounds[Candidate | None],
        discarded: Mapping[Candidate, str],
        origins: Mapping[Candidate, Origin] | None = None,
    ) -> None:
        self._rounds = rounds
        self._asked: Ask | None = None
        self._best: Candidate | None = None
        self.discarded = discarded
        self.origins = {} if origins is None else origins
        self._go_on(None)

    @property
    def done(self) -> bool:
        return self._asked is None

    def ask(self) -> Ask:
        if self._asked is None:
            raise RuntimeError("The search is done; read best.")
        return self._asked

    def tell(self, results: Sequence[Result]) -> None:
        self._go_on(results)

    @property
    def best(self) -> Candidate | None:
        return self._best

    def _go_on(self, results: Sequence[Result] | None) -> None:
        try:
            self._asked = next(self._rounds) if results is None else self._rounds.send(results)
        except StopIteration as finished:
            self._asked, self._best = None, finished.value
