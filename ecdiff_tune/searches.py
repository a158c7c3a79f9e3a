"""The searches of the tuner for a function of your own, by ask and tell.

>>> from ecdiff_tune import searches
>>> space = searches.Space(k=[1, 2, 3, 4, 5], alpha=[0.1, 0.3, 0.5, 0.7, 0.9])
>>> search = searches.create("greedy", space)
>>> while not search.done:
...     ask = search.ask()
...     values = [-abs(point["k"] - 2) - point["alpha"] for point in ask.candidates]
...     search.tell([searches.Result.of(value) for value in values])
>>> search.best
Point(k=2, alpha=0.1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ecdiff_core.validation import check_type
from ecdiff_tune.search.base import Ask, Context, Cost, Result, Search
from ecdiff_tune.search.options import Options, OptunaOptions, SearchError, check_installed
from ecdiff_tune.search.points import Point, Space
from ecdiff_tune.search.specs import SEARCHES

__all__ = [
    "NAMES",
    "Ask",
    "Context",
    "Cost",
    "Options",
    "OptunaOptions",
    "Point",
    "Result",
    "Search",
    "SearchError",
    "Space",
    "create",
]

NAMES = tuple(name for name, spec in SEARCHES.items() if not spec.places)
"""Searches over dimensions: all but ``schedule``, which places model calls."""


def create(
    name: str,
    space: Space,
    *,
    predict: Callable[[Point], float] | None = None,
    bound: Callable[[Point], float] | None = None,
    cost: Callable[[Point], float] | None = None,
    num_prompts: int = 1,
    seed: int = 0,
    options: Options | None = None,
) -> Search[Point]:
    """A search for the point of the highest objective.

    Until it is ``done``, ``ask()`` says what to evaluate: ``candidates``, each on the first ``prompts``
    prompts (None is all; ``values[:ask.prompts]`` does both). ``tell`` takes a ``Result.of(value)`` for each
    in their order, with several prompts a ``Result.of(values)``. In the end ``best`` is the winner, and
    ``pruned`` says of which candidates it was seen early that they cannot win. What is asked depends on
    nothing but the arguments and the results: a search that was stopped is made again, and given again what
    is known.

    Args:
        name: one of ``NAMES`` (docs/search.md tells which when).
        space: the dimensions.
        predict: an estimate of the objective without an evaluation; ``joint`` and ``predict`` need one, and
            ``race`` begins with the best of it.
        bound: the highest objective that a point can have; losers are pruned by it. None is unknown.
        cost: of an evaluation, in whatever unit; of equal objectives the cheaper wins.
        num_prompts: prompts, seeds or folds whose mean is the objective, in random order. With several, what
            loses significantly after some of them is pruned (``options.rungs``, ``error_rate``, ``margin``).
        seed: of whatever the search draws.
        options: how candidates race, how many, and what Optuna is given; None is the defaults.

    Raises:
        SearchError: there is no such search, or it lacks something.
    """
    check_type("space", space, Space, "a searches.Space", SearchError)
    if name not in NAMES:
        raise SearchError.unknown("search", name, NAMES)
    if num_prompts < 1:
        raise SearchError(key="num_prompts", got=num_prompts, expected=">= 1")
    spec, options = SEARCHES[name], options or Options()
    if spec.needs_forecast and predict is None:
        raise SearchError(key="predict", expected=f"to be a function of a point with search {name}")
    if options.until is not None and not spec.ends_early:
        raise SearchError(key="options.until", got=options.until, expected=f"to be None with search {name}")
    if spec.is_optuna:
        check_installed(options.optuna.sampler)

    def predictions(points: Sequence[Point]) -> list[float]:
        if predict is None:
            raise SearchError(key="predict", expected="to be a function of a point")
        return [predict(one) for one in points]

    context = Context[Point](
        num_prompts,
        lambda _, quality: quality,
        predictions,
        seed,
        lambda one: Cost(seconds=0.0 if cost is None else cost(one)),
        options,
        bound=bound or (lambda _: float("inf")),
    )
    return cast("Search[Point]", spec.make(space, cast(Any, context)))
