"""Candidates race over the prompts: those that cannot win, or are significantly worse, are pruned early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from ecdiff_core.errors import ECDiffError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Result, Rounds, Search
from ecdiff_tune.search.paired import TIE, significantly_worse
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.spaces import Space

TOGETHER = 16
"""Candidates asked for at once: enough to fill a batch, few enough for their images to lie in memory."""


class RaceState:
    """The candidates of a race and what is known of them so far.

    Args:
        context: its prompts are in random order, so that the first ones are a random part of all.
        pruned: why candidates were pruned, to be filled.
    """

    def __init__(self, context: Context, pruned: dict[Candidate, str]) -> None:
        self._context, self._pruned = context, pruned
        self._results: dict[Candidate, Result] = {}

    def measure(self, arms: Sequence[Candidate], prompts: int) -> Rounds[None]:
        """Ask for what is not known about the first so many prompts; infeasible candidates go at once."""
        whole = prompts >= self._context.num_prompts
        fresh = [one for one in self.left(arms) if self.seen(one) < prompts]
        for start in range(0, len(fresh), TOGETHER):
            asked = tuple(fresh[start : start + TOGETHER])
            results = yield Ask(asked, None if whole else prompts)
            for one, result in zip(asked, results, strict=True):
                self._results[one] = result
                if result.value == float("-inf"):
                    self._pruned[one] = "infeasible"

    def left(self, arms: Iterable[Candidate]) -> list[Candidate]:
        """Those that were not pruned."""
        return [one for one in arms if one not in self._pruned]

    def result(self, one: Candidate) -> Result | None:
        """What came of it last."""
        return self._results.get(one)

    def seen(self, one: Candidate) -> int:
        """On how many prompts it was measured."""
        return len(self._results[one].values) if one in self._results else 0

    def whole(self, arms: Iterable[Candidate] | None = None) -> list[Candidate]:
        """Those of some candidates, or of all, that were measured on all prompts and can be used."""
        known = self._results if arms is None else arms
        return [one for one in self.left(known) if self.seen(one) == self._context.num_prompts]

    def mean(self, one: Candidate, prompts: int | None = None) -> float:
        """The objective on the first so many prompts, or on all that it was measured on."""
        return fmean(self._results[one].values[:prompts])

    def leader(self, arms: Sequence[Candidate], prompts: int) -> Candidate:
        """The best on the first so many prompts; of equal ones the faster, then the first."""
        means = {one: round(self.mean(one, prompts) / TIE) for one in arms}
        return min(arms, key=lambda one: (-means[one], self._context.cost(one).seconds))

    def bound(self, arms: Sequence[Candidate]) -> None:
        """Prune those that cannot reach one that was measured whole, whatever SSIM the prompts have that
        they were not measured on."""
        whole = self.whole(arms)
        floor = max(map(self.mean, whole), default=float("-inf"))
        for one in self.left(arms):
            if one not in whole and self._most(one) < floor - TIE:
                self._pruned[one] = "bound"

    def compare(self, arms: Sequence[Candidate], prompts: int, level: float, margin: float) -> None:
        """Prune those that are ``significantly_worse`` than the leader and were not measured whole."""
        arms = self.left(arms)
        if not arms or level == 0:
            return
        leader, whole = self.leader(arms, prompts), self.whole(arms)
        ahead = self._results[leader].values[:prompts]
        for one in arms:
            values = self._results[one].values[:prompts]
            if one is leader or one in whole:
                continue
            if significantly_worse(values, ahead, self._context.num_prompts, level, margin):
                self._pruned[one] = f"race after {prompts} prompts"

    def is_settled(self, arms: Sequence[Candidate], prompts: int, level: float, until: float) -> bool:
        """Whether no other one can be better than the leader by ``until``: each interval of the leader's
        advantage ends above minus that."""
        left = self.left(arms)
        if not left:
            return False
        leader, everything = self.leader(left, prompts), self._context.num_prompts
        ahead = self._results[leader].values[:prompts]
        others = (self._results[one].values[:prompts] for one in left if one is not leader)
        return all(significantly_worse(values, ahead, everything, level, until) for values in others)

    def _most(self, one: Candidate) -> float:
        """Its objective over all prompts is no higher."""
        everything = self._context.num_prompts
        values = self._results[one].values if one in self._results else ()
        return (sum(values) + (everything - len(values)) * self._context.most(one)) / everything


def run_rungs(arms: Sequence[Candidate], state: RaceState, context: Context) -> Rounds[int | None]:
    """Successive elimination (Maron and Moore's Hoeffding races, 1994, with a paired t test in its place).

    At a few rungs the losers are pruned. With no ``margin``, the candidate that is best on all prompts
    is lost with at most ``error_rate``: it meets every other one at most once a rung, and each test has its
    share of that rate. With one, each rung gives away at most so much. The same tests tell when a race is
    settled by ``until``.

    Returns:
        On how many prompts it was; None where it was not, or nobody asks.
    """
    options = context.options
    level = options.level(context.num_prompts, len(arms))
    for prompts in options.prompts(context.num_prompts):
        if options.until is not None or len(state.left(arms)) > 1:
            yield from state.measure(arms, prompts)
            state.bound(arms)
            state.compare(arms, prompts, level, options.margin)
        if options.until is not None and state.is_settled(arms, prompts, level, options.until):
            return prompts
    return None


def race(space: Space, context: Context) -> Search:
    """``Search`` that measures the best predicted candidate whole, races the others against it as far as
    their bounds allow, and measures the survivors whole."""
    pruned: dict[Candidate, str] = {}
    return Search(_rounds(space, context, pruned), pruned)


def _rounds(space: Space, context: Context, pruned: dict[Candidate, str]) -> Rounds[Candidate | None]:
    arms, everything = space.grid, context.num_prompts
    state = RaceState(context, pruned)
    for pilot in _in_order(arms, context):
        yield from state.measure([pilot], everything)
        if pilot not in pruned:
            break
    state.bound(arms)
    yield from run_rungs(arms, state, context)
    yield from state.measure(arms, everything)
    survivors = state.left(arms)
    return state.leader(survivors, everything) if survivors else None


def _in_order(arms: Sequence[Candidate], context: Context) -> list[Candidate]:
    """Who is measured first: the best predicted; by the highest bound where nothing can be predicted."""
    try:
        return by_forecast(arms, context)
    except ECDiffError:
        return sorted(arms, key=lambda one: -context.most(one))
