"""A space as Optuna sees it: parameters with distributions, and back to candidates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from ecdiff_core.errors import ParamsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import points
from ecdiff_tune.search.spaces import GridSpace, Value, nearest_value

DIMENSIONS = ("p", "k", "alpha", "s", "estimator", "handoff_adapter", "edge_k", "residual", "handoff")
SCALES = {"": 1, "_tenths": 10, "_hundredths": 100}


@dataclass(frozen=True)
class Dimension:
    """One dimension of a space: its name to Optuna, and its values by what Optuna suggests."""

    name: str
    distribution: BaseDistribution
    values: Mapping[Any, Value]

    @classmethod
    def of(cls, name: str, values: Sequence[Value]) -> Dimension:
        """Evenly spaced numbers keep their order, as whole numbers, of tenths or hundredths where they must
        be (0.1 + 0.2 is no 0.3); anything else is categorical.

        >>> Dimension.of("alpha", (0.2, 0.4, 0.6)).distribution
        IntDistribution(high=6, log=False, low=2, step=2)
        >>> Dimension.of("k", (1, 2, 5)).distribution
        CategoricalDistribution(choices=(1, 2, 5))
        """
        numbers = [one for one in values if not isinstance(one, str)]
        for suffix, scale in SCALES.items() if len(numbers) == len(values) else ():
            scaled = {round(one * scale): one for one in sorted(numbers)}
            whole = list(scaled)
            exact = all(abs(key - one * scale) < 1e-9 for key, one in scaled.items())
            steps = {after - before for before, after in itertools.pairwise(whole)} or {1}
            if exact and len(scaled) == len(values) and len(steps) == 1:
                return cls(name + suffix, IntDistribution(whole[0], whole[-1], step=steps.pop()), scaled)
        return cls(name, CategoricalDistribution(values), {one: one for one in values})

    def suggestion(self, target: Value) -> Any:
        """What stands for the value nearest to ``target``; where there is no near, for it or the first."""
        if isinstance(target, str):
            return target if target in self.values else next(iter(self.values))
        value = nearest_value([one for one in self.values.values() if not isinstance(one, str)], target)
        return next(key for key, one in self.values.items() if one == value)


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of a space that have more than one value are suggested; the others are fixed."""

    space: GridSpace | points.Space

    @cached_property
    def all(self) -> dict[str, Dimension]:
        """By the name of the dimension."""
        return {name: Dimension.of(name, values) for name, values in self.space.dimensions.items()}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """By the name that Optuna knows."""
        return {
            dimension.name: dimension.distribution
            for dimension in self.all.values()
            if len(dimension.values) > 1
        }

    def candidate(self, suggested: Mapping[str, Any]) -> Candidate | None:
        """That of the grid which makes these images; None where the params contradict each other."""
        aliases: Mapping[Any, Any] = self.space.aliases
        try:
            return aliases.get(self.space.at(**self.point(suggested)))  # type: ignore[arg-type]
        except ParamsError:
            return None

    def point(self, suggested: Mapping[str, Any]) -> dict[str, Value]:
        """The values as they are suggested, by the name of the dimension."""
        return {
            name: dimension.values[suggested.get(dimension.name, next(iter(dimension.values)))]
            for name, dimension in self.all.items()
        }

    def nearest(self, candidate: Candidate | points.Point) -> dict[str, Any]:
        """The suggestion nearest to a candidate, dimension by dimension."""
        values = dict(values_of(candidate))
        if values.get("handoff", "") is None:
            values["handoff"] = getattr(self.space, "handoff", "aligned")
        return {
            dimension.name: dimension.suggestion(values[name])
            for name, dimension in self.all.items()
            if len(dimension.values) > 1
        }


def values_of(candidate: Candidate | points.Point) -> Mapping[str, Any]:
    """The values of a candidate, or of a point, by the names of dimensions."""
    if isinstance(candidate, points.Point):
        return candidate
    own = ("estimator", "handoff_adapter", "handoff")
    return {name: getattr(candidate if name in own else candidate.params, name) for name in DIMENSIONS}
