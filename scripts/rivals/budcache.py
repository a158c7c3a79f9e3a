"""BudCache: for a number of calls, simulated annealing over lists of real steps and then hill climbing, both
by the error of the final latents on one prompt.

Own code after the outline of the method. What the outline leaves open is chosen here: the start is evenly
spread, a move takes one real step anywhere, temperatures fall geometrically and are held against the
logarithm of the error, and the climb moves single steps by one. A skipped step uses the model's last answer
again, or what another estimator makes of the answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Schedule = tuple[int, ...]

EVALUATIONS = 200
"""Of the annealing; a list that comes again is not generated again."""
TEMPERATURES = (0.5, 0.01)
"""At its first and at its last evaluation: at t a list with an error that is exp(t) times larger is taken in
one of e cases."""


@dataclass(frozen=True)
class Found:
    """The best list, and how many lists were generated."""

    schedule: Schedule
    error: float
    evaluations: int


def search(
    error: Callable[[Schedule], float],
    calls: int,
    num_steps: int,
    fixed: int,
    seed: int = 0,
    evaluations: int = EVALUATIONS,
) -> Found:
    """The list of ``calls`` steps below ``num_steps`` with the least error that is found.

    Args:
        error: of the final latents, above 0; asked once a list.
        fixed: steps at the beginning that stay real.

    >>> search(lambda one: 1 + sum((step - 7) ** 2 for step in one[1:]), 4, 10, 1).schedule
    (0, 6, 7, 8)
    """
    known: dict[Schedule, float] = {}

    def ask(schedule: Schedule) -> float:
        if schedule not in known:
            known[schedule] = error(schedule)
        return known[schedule]

    chance = random.Random(seed)
    now = _evenly(calls, num_steps, fixed)
    ask(now)
    for i in range(1, evaluations):
        temperature = TEMPERATURES[0] * (TEMPERATURES[1] / TEMPERATURES[0]) ** (i / evaluations)
        other = _moved(now, num_steps, fixed, chance)
        worse = math.log(ask(other) / ask(now))
        if worse <= 0 or chance.random() < math.exp(-worse / temperature):
            now = other
    best = _climbed(ask, min(known, key=lambda one: known[one]), num_steps, fixed)
    return Found(best, known[best], len(known))


def _climbed(ask: Callable[[Schedule], float], best: Schedule, num_steps: int, fixed: int) -> Schedule:
    """Take whatever better neighbour comes first, until there is none."""
    while True:
        better = next((one for one in _neighbours(best, num_steps, fixed) if ask(one) < ask(best)), None)
        if better is None:
            return best
        best = better


def _evenly(calls: int, num_steps: int, fixed: int) -> Schedule:
    later = calls - fixed
    return (*range(fixed), *(fixed + i * (num_steps - fixed) // later for i in range(later)))


def _moved(schedule: Schedule, num_steps: int, fixed: int, chance: random.Random) -> Schedule:
    free = [step for step in range(fixed, num_steps) if step not in schedule]
    return _exchanged(schedule, chance.choice(schedule[fixed:]), chance.choice(free))


def _neighbours(schedule: Schedule, num_steps: int, fixed: int) -> Iterator[Schedule]:
    for step in schedule[fixed:]:
        for other in (step - 1, step + 1):
            if fixed <= other < num_steps and other not in schedule:
                yield _exchanged(schedule, step, other)


def _exchanged(schedule: Schedule, step: int, other: int) -> Schedule:
    return tuple(sorted({*schedule, other} - {step}))
