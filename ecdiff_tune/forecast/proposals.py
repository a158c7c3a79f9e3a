"""Which real steps to look at, for a number of cloud calls: placed by their predicted error, spread by a
formula, and the paper's (p, k)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_core.sampling.plan_of_params import effective_s
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.placement import Forecast, Schedule
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.splits import SplitPlacer
from ecdiff_tune.search.spaces import LEAST_CALLS

LONGEST_GAP = 12
"""Steps from one real call to the next that the dynamic programming tries."""
POWERS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0)
"""Of spread placements: 1 is evenly, more is denser at the beginning."""
WARM_UPS = range(2, 9)
"""Of spread placements."""
LAST_STEPS = 10
"""Spread placements end so many steps before the handoff at most."""
BEAM = 3
"""Beginnings that the dynamic programming keeps for each last real step."""
SHAPES = 6
"""Spread placements that are proposed an estimator, each of another warm-up and power."""
ALONE = 2
"""Placements of the cloud alone that are proposed beside those with the edge, an estimator."""

Placed = tuple[Schedule, float]
"""Real steps and alpha."""


@dataclass(frozen=True)
class Placer:
    """Places the real calls of one estimator.

    Args:
        forecast: of the reference.
        alphas: to choose from.
        most_calls: of the budgets that will be asked for.
        longest: the largest s that will be asked for.
    """

    forecast: Forecast
    estimator: str
    alphas: tuple[float, ...]
    most_calls: int
    longest: int

    def errors(self, some: Sequence[Placed], s: int) -> Array:
        """The predicted squared errors with a handoff at s, shape (len(some),)."""
        plans = [(self._letters(schedule, s), alpha, alpha) for schedule, alpha in some]
        return self.forecast.errors_of(self.estimator, self.alphas, plans)

    def _letters(self, schedule: Schedule, s: int) -> str:
        filled = "M" if get_estimator(self.estimator).fills_with_edge else "A"
        cloud_side = "".join("C" if step in schedule else filled for step in range(s))
        return cloud_side + "E" * (len(self.forecast.response) - 1 - s)

    def propose(self, calls: int, s: int) -> list[Placed]:
        """Placements of so many cloud calls before step s, of several kinds, none twice.

        The best spread ones of ``SHAPES`` shapes; the dynamic programming's for the two alphas that are best
        among the spread ones; and what moving single calls makes of the best of either kind.
        """
        spread = self._spread(calls, s)
        alphas = list(dict.fromkeys(alpha for _, alpha in spread))[:2]
        programmed = self.ranked([one for alpha in alphas for one in self._programmed(alpha, calls, s)], s)
        polished = [self._polished(one, s) for one in (*programmed[:1], *spread[:1])]
        return list(dict.fromkeys([*polished[:1], *spread[:1], *polished[1:], *programmed, *spread[1:]]))

    def ranked(self, some: Iterable[Placed], s: int) -> list[Placed]:
        """Different ones, the least predicted error first."""
        fresh = list(dict.fromkeys(some))
        return [fresh[i] for i in np.argsort(self.errors(fresh, s), kind="stable")]

    def _spread(self, calls: int, s: int) -> list[Placed]:
        """The best of each shape, the best shapes first."""
        shapes = {schedule: shape for shape, schedule in spread_schedules(calls, s)}
        best: dict[tuple[int, float], Placed] = {}
        for one in self.ranked(itertools.product(shapes, self.alphas), s):
            best.setdefault(shapes[one[0]], one)
        return list(best.values())[:SHAPES]

    def _programmed(self, alpha: float, calls: int, s: int) -> list[Placed]:
        """The best of the beginnings that the dynamic programming kept, if they end there."""
        if alpha not in self._begun:
            self._begun[alpha] = self._programme(alpha)
        return self.ranked([(one, alpha) for one in self._begun[alpha][calls] if one[-1] < s], s)[:BEAM]

    @cached_property
    def _begun(self) -> dict[float, list[list[Schedule]]]:
        return {}

    def _programme(self, alpha: float) -> list[list[Schedule]]:
        """Dynamic programming (Bellman): by number of calls, the best beginnings up to each last real step.

        A beginning is judged by the predicted error of the plan in which all later steps are real, so that
        what it costs is what its own windows did, with the models' reaction to it. Windows also err for or
        against one another, so that the best plan need not go on from the best beginning: ``BEAM`` are kept.
        """
        begun: list[list[Schedule]] = [[], [], [(0, 1)]]
        for _ in range(LEAST_CALLS, self.most_calls + 1):
            longer = [
                (*one, following)
                for one in begun[-1]
                for following in range(one[-1] + 1, min(one[-1] + LONGEST_GAP + 1, self.longest))
            ]
            whole = [((*one, *range(one[-1] + 1, self.longest)), alpha) for one in longer]
            best: dict[int, list[Schedule]] = {}
            for i in np.argsort(self.errors(whole, self.longest), kind="stable"):
                kept = best.setdefault(longer[i][-1], [])
                if len(kept) < BEAM:
                    kept.append(longer[i])
            begun.append([one for last in sorted(best) for one in best[last]])
        return begun

    def _polished(self, placed: Placed, s: int, least_gain: float = 1e-3) -> Placed:
        """Move one call, or change alpha, as long as the predicted error falls by so large a share."""
        error = float(self.errors([placed], s)[0])
        while True:
            schedule, alpha = placed
            near = [(schedule, other) for other in self.alphas if other != alpha]
            free = [step for step in range(2, s) if step not in schedule]
            near += [
                (tuple(sorted({*schedule, step} - {gone})), alpha) for gone in schedule[2:] for step in free
            ]
            errors = self.errors(near, s)
            if not len(near) or not errors.min() < error * (1 - least_gain):
                return placed
            placed, error = near[int(errors.argmin())], float(errors.min())


def spread_schedules(calls: int, s: int) -> list[tuple[tuple[int, float], Schedule]]:
    """A warm-up, then real steps at distances that grow by a power law, to one of the last steps before s.

    Returns:
        (warm-up, power) and the steps, the first of equal ones alone.

    >>> next(one for one in spread_schedules(6, 12) if one[1][-1] == 10)
    ((2, 1.0), (0, 1, 3, 6, 8, 10))
    """
    found: dict[Schedule, tuple[int, float]] = {}
    for warm_up, power in itertools.product(WARM_UPS, POWERS):
        later = calls - warm_up
        for last in range(max(warm_up, s - LAST_STEPS), s) if later > 0 else ():
            ends = warm_up - 1 + (last - warm_up + 1) * (np.arange(1, later + 1) / later) ** power
            steps = [*range(warm_up)]
            for end in ends:
                steps.append(max(steps[-1] + 1, round(float(end))))
            if steps[-1] < s:
                found.setdefault(tuple(steps), (warm_up, power))
    return [(shape, schedule) for schedule, shape in found.items()]


def propose(
    predictor: Predictor,
    budgets: Sequence[int],
    s_values: Sequence[int],
    estimators: Sequence[str],
    adapters: Sequence[HandoffAdapter],
    ks: Sequence[int],
    alphas: tuple[float, ...],
) -> tuple[Candidate, ...]:
    """Candidates of so many cloud calls, for every s that leaves room for them: placed, and the paper's.

    Args:
        budgets: numbers of cloud calls.
        ks: of the paper's (p, k), of which the ``SHAPES`` best predicted are taken.
    """
    steps, found = predictor.response.shape[1], []
    for name, adapter in itertools.product(estimators, adapters):
        estimator = get_estimator(name)
        with_edge = min(s_values) < steps or estimator.fills_with_edge
        if adapter != adapters[0] and not with_edge:
            continue  # nothing is handed over
        forecast = Forecast.of(predictor, adapter if with_edge else None)
        factors = alphas if estimator.uses_alpha else alphas[:1]
        placer = Placer(forecast, name, factors, max(budgets), max(s_values))
        for calls, s in itertools.product(budgets, s_values):
            if calls > s:
                continue
            some = [ECDiffParams.scheduled(*one, s) for one in placer.propose(calls, s)]
            papers = paper_params(calls, s, steps, predictor.handoff, ks, factors)
            named = {(one.real_steps(s), one.alpha): one for one in papers}
            some += [named[one] for one in placer.ranked(named, s)[:SHAPES]]
            found += [Candidate(one, name, adapter) for one in some]
    return tuple(found)


def propose_splits(
    predictor: Predictor,
    budgets: Sequence[int],
    edge_calls: Sequence[int],
    residuals: Sequence[float],
    one_way: bool,
    estimators: Sequence[str],
    adapters: Sequence[HandoffAdapter],
    alphas: tuple[float, ...],
) -> tuple[Candidate, ...]:
    """Candidates in which the edge's calls are placed as well; beside them the cloud alone with as many calls
    of its own, which may be better than any of them: that is for a race to decide.

    Args:
        budgets, edge_calls: numbers of cloud and of edge calls.
        residuals: factors.
        one_way: whether all cloud calls come before the edge's.
    """
    found = []
    for name, adapter, residual in itertools.product(estimators, adapters, residuals):
        estimator = get_estimator(name)
        if estimator.fills_with_edge:
            continue
        factors = alphas if estimator.uses_alpha else alphas[:1]
        placer = SplitPlacer(Forecast.of(predictor, adapter), name, factors, residual)
        for calls, more in itertools.product(budgets, edge_calls):
            some = placer.propose(calls, more, one_way)
            found += [Candidate(one.params(residual), name, adapter) for one in some]
    enough = [calls for calls in budgets if calls >= LEAST_CALLS]
    return (*found, *_alone(predictor, enough, estimators, adapters[0], alphas))


def _alone(
    predictor: Predictor,
    budgets: Sequence[int],
    estimators: Sequence[str],
    adapter: HandoffAdapter,
    alphas: tuple[float, ...],
) -> Iterator[Candidate]:
    """The few best predicted placements of the cloud alone."""
    steps = predictor.response.shape[1]
    for name in estimators if budgets else ():
        estimator = get_estimator(name)
        if estimator.fills_with_edge:
            continue
        factors = alphas if estimator.uses_alpha else alphas[:1]
        placer = Placer(Forecast.of(predictor), name, factors, max(budgets), steps)
        for calls in budgets:
            for schedule, alpha in placer.propose(calls, steps)[:ALONE]:
                yield Candidate(ECDiffParams.scheduled(schedule, alpha, steps), name, adapter)


def paper_params(
    calls: int, s: int, num_steps: int, handoff: Handoff, ks: Sequence[int], alphas: Sequence[float]
) -> list[ECDiffParams]:
    """The paper's (p, k) that make so many cloud calls and hand over at s, with every alpha."""
    found = []
    for p, k in itertools.product(range(2, min(calls, s) + 1), ks):
        params = ECDiffParams(p, k, alphas[0], s)
        if effective_s(params, num_steps, handoff) == s and len(params.real_steps(s)) == calls:
            found += [ECDiffParams(p, k, alpha, s) for alpha in alphas]
    return found
