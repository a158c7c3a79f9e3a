"""Work on prompts, divided over ranks.

Blocks of ``batch_size`` prompts by their place in the set are divided, block b to rank b mod size, so that a
prompt is generated in the company in which a single process generates it, and that a rank finds what its
trajectories have in common with earlier ones in its own store. (``split_between_processes`` of accelerate
cuts whatever list it is given, so that a prompt would wander from rank to rank.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import counted
from ecdiff_core.models.memory import Batches
from ecdiff_tune.evaluation.ranks import Ranks

T = TypeVar("T")


class DividedBatches(Batches):
    """Batches within blocks, a round of as many blocks as there are ranks at a time.

    ``over`` is called on all ranks alike; its rows are rank 0's.
    """

    def __init__(self, ranks: Ranks, size: int, log: Callable[[str], None]) -> None:
        self._lines: list[str] = []
        super().__init__(size, log if ranks.first else self._lines.append)
        self.ranks, self._block, self._log_line = ranks, size, log

    def over(
        self, rows: Sequence[int], work: Callable[[Sequence[int]], T]
    ) -> Iterator[tuple[Sequence[int], T]]:
        rank, count = self.ranks.rank, self.ranks.size
        size = self.size if count == 1 else self._block  # ranks have to agree, so theirs does not shrink
        for _, together in itertools.groupby(self.ranks.broadcast(rows), lambda row: row // size // count):
            mine = [row for row in together if row // size % count == rank]
            try:
                found = [*super().over(mine, work)]
            except ECDiffError as error:
                self.ranks.end(2, error)  # now: who catches it would be out of step with the others
                raise
            for number, (part, lines) in enumerate(self.ranks.gather((found, [*self._lines]))):
                for line in lines:
                    self._log_line(f"rank {number}: {line}")
                yield from part
            self._lines.clear()


def division(ranks: Ranks, prompts: int, batch_size: int) -> str:
    """How the work is divided, in one line."""
    blocks = math.ceil(prompts / batch_size)
    rounds = math.ceil(blocks / ranks.size)
    batches = f"{blocks} batch{'es' * (blocks != 1)}"
    line = f"{ranks.size} ranks share {counted(prompts, 'prompt')} in {batches}"
    line += f": about {rounds}/{blocks} of the times predicted below"
    if blocks < ranks.size:
        line += f"; ranks without a batch: {ranks.size - blocks}"
        smaller = math.ceil(prompts / ranks.size)
        if smaller < batch_size:
            line += f", fewer with batch_size={smaller}"
    return line
