"""Candidates race over the prompts: those that cannot win, or surely do not, are given up early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from ecdiff_tune.candidate import Candidate
from ecdiff_tune.search.base import Ask, Context, Search, Space
from ecdiff_tune.search.paired import TIE, surely_below
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.search.script import Rounds, Scripted

TOGETHER = 16
"""Candidates asked for at once: enough to fill a batch, few enough for their pictures to lie in memory."""


class Field:
    """The candidates of a race and what is known of them so far.

    Args:
        context: its prompts are in random order, so that the first ones are a random part of all.
        discarded: why candidates were given up, to be filled.
    """

    def __init__(self, context: Context, discarded: dict[Candidate, str]) -> None:
        self._context, self._discarded = context, discarded
        self._values: dict[Candidate, tuple[float, ...]] = {}

    def measure(self, arms: Sequence[Candidate], prompts: int) -> Rounds[None]:
        """Ask for what is not known about the first so many prompts; infeasible candidates go at once."""
        whole = prompts >= self._context.num_prompts
        fresh = [one for one in self.left(arms) if len(self._values.get(one, ())) < prompts]
        for start in range(0, len(fresh), TOGETHER):
            asked = tuple(fresh[start : start + TOGETHER])
            results = yield Ask(asked, None if whole else prompts)
            for one, result in zip(asked, results, strict=True):
                if result.value == float("-inf"):
                    self._discarded[one] = "infeasible"
                else:
                    self._values[one] = result.values

    def left(self, arms: Iterable[Candidate]) -> list[Candidate]:
        """Those that were not given up."""
        return [one for one in arms if one not in self._discarded]

    def whole(self, one: Candidate) -> bool:
        """Whether it was measured on all prompts."""
        return len(self._values.get(one, ())) == self._context.num_prompts

    def bound(self, arms: Sequence[Candidate]) -> None:
        """Give up those that cannot reach another one, whatever SSIM the prompts that were not seen have."""
        arms = self.left(arms)
        floor = max((self._between(one)[0] for one in arms), default=0.0)
        for one in arms:
            if self._between(one)[1] < floor - TIE:
                self._discarded[one] = "bound"

    def compare(self, arms: Sequence[Candidate], prompts: int, level: float, margin: float) -> None:
        """Give up those that the leader surely beats (``surely_below``) and that were not measured whole."""
        arms = self.left(arms)
        if not arms:
            return
        leader = self.leader(arms, prompts)
        ahead = self._values[leader][:prompts]
        for one in arms:
            values = self._values[one][:prompts]
            if one is leader or self.whole(one):
                continue
            if surely_below(values, ahead, self._context.num_prompts, level, margin):
                self._discarded[one] = f"race after {prompts} prompts"

    def leader(self, arms: Sequence[Candidate], prompts: int) -> Candidate:
        """The best on the first so many prompts; of equal ones the faster, then the first."""
        means = {one: round(fmean(self._values[one][:prompts]) / TIE) for one in arms}
        return min(arms, key=lambda one: (-means[one], self._context.seconds(one)))

    def _between(self, one: Candidate) -> tuple[float, float]:
        """Its objective over all prompts is within these, as SSIM is within -1 … 1."""
        values, everything = self._values.get(one, ()), self._context.num_prompts
        ends = [self._context.objective(one, quality) for quality in (-1.0, 1.0)]
        unseen, total = everything - len(values), sum(values)
        low, high = ((total + unseen * end) / everything for end in sorted(ends))
        return low, high


def run_looks(arms: Sequence[Candidate], field: Field, context: Context) -> Rounds[None]:
    """Successive elimination (Maron and Moore's Hoeffding races, 1994, with a paired t test in its place).

    After a few looks the losers are given up. With no ``margin``, the candidate that is best on all prompts
    is lost with at most ``error_rate``: it meets every other one at most once a look, and each test has its
    share of that rate. With one, each look gives away at most so much.
    """
    options = context.options
    level = options.level(context.num_prompts, len(arms))
    for prompts in options.prompts(context.num_prompts):
        if len(field.left(arms)) > 1:
            yield from field.measure(arms, prompts)
            field.bound(arms)
            field.compare(arms, prompts, level, options.margin)


def race(space: Space, context: Context) -> Search:
    """``Search`` that measures the best foretold candidate whole, races the others against it as far as
    their bounds allow, and measures the survivors whole."""
    discarded: dict[Candidate, str] = {}
    return Scripted(_rounds(space, context, discarded), discarded)


def _rounds(space: Space, context: Context, discarded: dict[Candidate, str]) -> Rounds[Candidate | None]:
    arms, everything = space.grid, context.num_prompts
    field = Field(context, discarded)
    for pilot in by_forecast(arms, context):
        yield from field.measure([pilot], everything)
        if pilot not in discarded:
            break
    field.bound(arms)
    yield from run_looks(arms, field, context)
    yield from field.measure(arms, everything)
    survivors = field.left(arms)
    return field.leader(survivors, everything) if survivors else None
