"""One search for several ranks: rank 0's, whose questions all of them answer together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ranks import Ranks
from ecdiff_tune.search.base import Ask, Rounds, Search

Predict = Callable[[Sequence[Candidate]], Sequence[float]]


@dataclass(frozen=True)
class _Prediction:
    """A prediction that rank 0's search asks for, which may take model calls."""

    candidates: tuple[Candidate, ...]


def in_step(ranks: Ranks, predict: Predict, make: Callable[[Predict], Search]) -> Search:
    """The search on every rank, where only rank 0's is made: all go by the same decisions, whatever a search
    decides by (a storage, the clock, the last bit of a sum).

    Args:
        predict: the quality of candidates; called on all ranks alike.
        make: the search, which predicts with what it is given.
    """
    if ranks.size == 1:
        return make(predict)
    pruned: dict[Candidate, str] = {}
    if not ranks.first:
        return Search(_follow(ranks, predict, pruned), pruned)

    def with_others(candidates: Sequence[Candidate]) -> Sequence[float]:
        ranks.broadcast(_Prediction(tuple(candidates)))
        return predict(candidates)

    search = make(with_others)
    return Search(_lead(ranks, search, pruned), pruned, search.origins)


def _lead(ranks: Ranks, search: Search, pruned: dict[Candidate, str]) -> Rounds[Candidate | None]:
    while not search.done:
        pruned |= search.pruned
        ask, _ = ranks.broadcast((search.ask(), dict(pruned)))
        search.tell((yield ask))
    pruned |= search.pruned
    best, _ = ranks.broadcast((search.best, dict(pruned)))
    return best


def _follow(ranks: Ranks, predict: Predict, pruned: dict[Candidate, str]) -> Rounds[Candidate | None]:
    while True:
        message: _Prediction | tuple[Ask | Candidate | None, dict[Candidate, str]] | None = None
        message = ranks.broadcast(message)
        if isinstance(message, _Prediction):
            with suppress(ECDiffError):  # rank 0 has it too, and decides what comes of it
                predict(message.candidates)
            continue
        assert message is not None
        asked, gone = message
        pruned |= gone
        if not isinstance(asked, Ask):
            return asked
        yield asked
