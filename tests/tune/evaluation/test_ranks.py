"""Who does what on several ranks, each of them a thread: no process is started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core.errors import ECDiffError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.divided_batches import DividedBatches, division
from ecdiff_tune.evaluation.ranks import ALONE, Ranks
from ecdiff_tune.search.base import Ask, Result, Rounds, Search
from ecdiff_tune.search.in_step import Predict, in_step

T = TypeVar("T")


class Together(Ranks):
    """A rank that meets the others in memory."""

    def __init__(self, rank: int, values: list[object], meeting: threading.Barrier) -> None:
        super().__init__(rank, len(values))
        self._values, self._meeting = values, meeting

    def _exchange(self, value: object) -> list[object]:
        if self._over is not None:
            raise self._over
        self._values[self.rank] = value
        self._meeting.wait(60)
        found = [*self._values]
        self._meeting.wait(60)
        return found


def on_all(count: int, work: Callable[[Ranks], T], *ends: type[BaseException]) -> list[T | BaseException]:
    """What the same work comes to on every rank, or how it ends."""
    values: list[object] = [None] * count
    meeting = threading.Barrier(count)

    def outcome(ranks: Ranks) -> T | BaseException:
        try:
            return work(ranks)
        except ends as end:
            return end

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(outcome, [Together(rank, values, meeting) for rank in range(count)]))


@given(st.sets(st.integers(0, 60)).map(sorted), st.integers(1, 9), st.integers(1, 5))
def test_every_prompt_in_its_block_on_its_rank(rows: list[int], size: int, count: int) -> None:
    def divided(ranks: Ranks) -> list[tuple[list[int], tuple[int, int]]]:
        batches = DividedBatches(ranks, size, print)
        mine = rows if ranks.first else []  # rank 0's count
        return [([*some], found) for some, found in batches.over(mine, lambda some: (ranks.rank, sum(some)))]

    first, *others = on_all(count, divided)
    assert all(other == first for other in others)
    assert [row for some, _ in first for row in some] == rows
    for some, (rank, total) in first:
        assert {row // size % count for row in some} == {rank}
        assert total == sum(some)
    alone = [[*some] for some, _ in DividedBatches(ALONE, size, print).over(rows, len)]
    assert [some for some, _ in first] == alone


def test_one_process_keeps_blocks_too() -> None:
    batches = DividedBatches(ALONE, 4, print)
    assert [[*rows] for rows, _ in batches.over([0, 1, 3, 4, 9], len)] == [[0, 1, 3], [4], [9]]


def test_memory_that_runs_out_on_one_rank_is_told_by_rank_0() -> None:
    def little(ranks: Ranks) -> tuple[list[str], list[int]]:
        said: list[str] = []

        def work(rows: Sequence[int]) -> int:
            if ranks.rank == 1 and len(rows) > 1:
                raise MemoryError
            return len(rows)

        found = [size for _, size in DividedBatches(ranks, 2, said.append).over([0, 1, 2, 3], work)]
        return said, found

    said, found = on_all(2, little)[0]
    assert said == ["rank 1: out of memory with 2 prompts at a time: going on with 1"]
    assert found == [2, 1, 1]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_that_is_caught_ends_all_the_same(failing: int) -> None:
    def work(rows: Sequence[int]) -> int:
        raise ECDiffError("does not fit", key="pair")

    def caught(ranks: Ranks) -> str:
        batches = DividedBatches(ranks, 1, print)
        with suppress(ECDiffError):
            list(batches.over([0, 1], work if ranks.rank == failing else len))
        try:
            ranks.broadcast("goes on")
        except (ECDiffError, SystemExit) as end:
            return str(end)
        return "went on"

    told = on_all(2, caught, SystemExit)
    assert [str(one) for one in told] == ["does not fit", "does not fit" if failing else "2"]


def test_how_the_work_is_shared_is_told() -> None:
    eight = Ranks(0, 8)
    assert division(eight, 100, 25) == (
        "8 ranks share 100 prompts in 4 batches: about 1/4 of the times predicted below; "
        "ranks without a batch: 4, fewer with batch_size=13"
    )
    assert division(eight, 100, 13) == (
        "8 ranks share 100 prompts in 8 batches: about 1/8 of the times predicted below"
    )
    assert division(eight, 3, 1).endswith("about 1/3 of the times predicted below; ranks without a batch: 5")


FIRST, SECOND, THIRD = (Candidate(ECDiffParams(3, k, 0.3, 9)) for k in (1, 2, 3))


def test_all_ranks_measure_what_the_search_of_rank_0_asks_for() -> None:
    Told = tuple[list[Ask], Candidate | None, Mapping[Candidate, str], list[Sequence[Candidate]]]

    def stage(ranks: Ranks) -> Told:
        predicted: list[Sequence[Candidate]] = []
        pruned: dict[Candidate, str] = {}

        def predict(candidates: Sequence[Candidate]) -> list[float]:
            predicted.append(candidates)
            if THIRD in candidates:
                raise ECDiffError("nothing can be predicted", key="scheduler")
            return [0.1, 0.2]

        def rounds(predict: Predict) -> Rounds[Candidate | None]:
            with pytest.raises(ECDiffError):
                predict([THIRD])
            assert predict([FIRST, SECOND]) == [0.1, 0.2]
            (result,) = yield Ask((FIRST,), 2)
            pruned[FIRST] = f"only {result.value}"
            yield Ask((SECOND,))
            return SECOND

        def make(predict: Predict) -> Search:
            assert ranks.first, "a search of another rank"
            return Search(rounds(predict), pruned)

        search, asked = in_step(ranks, predict, make), []
        while not search.done:
            asked.append(search.ask())
            value = 0.5 + ranks.rank
            search.tell([Result(value, values=(value,) * (asked[-1].prompts or 0))])
        return asked, search.best, search.pruned, predicted

    expected = (
        [Ask((FIRST,), 2), Ask((SECOND,))],
        SECOND,
        {FIRST: "only 0.5"},
        [(THIRD,), (FIRST, SECOND)],
    )
    first, second = on_all(2, stage)
    assert first[:3] == second[:3] == expected[:3]
    assert [[*one] for one in first[3]] == [[*one] for one in second[3]] == [[*one] for one in expected[3]]
