"""Which steps the cloud, the edge and neither do: numbers of calls of both, placed by their predicted error.

Beginnings that a formula makes are improved call by call, the way that a chess problem is solved from a rough
position: whatever single change lowers the predicted error of the final latents most is made, until none
does. A plan is a text of a letter a step (``Plan.letters``): C, A, E, or M for an edge step with the
residual.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.placement import Forecast

LEAST_GAIN = 1e-3
"""By so large a share the predicted error must fall for a change to be worth a look."""
POWERS = (1.0, 1.4, 2.0)
"""Of the beginnings' spread: 1 is evenly, more is denser at the beginning."""
STARTS = 2
"""Beginnings that are improved, the best predicted ones."""
REAL_AT_FIRST = 2
"""Steps that the first estimate is made of."""


@dataclass(frozen=True)
class Split:
    """A plan by its letters, and alpha."""

    letters: str
    alpha: float

    @property
    def one_way(self) -> bool:
        """Whether no cloud call follows an edge step, so that the link is crossed once."""
        return not {"E", "M"} & set(self.letters[: self.letters.rfind("C") + 1])

    def params(self, residual: float) -> ECDiffParams:
        """As it is written to a YAML.

        >>> Split("CCAMMA", 0.5).params(1.0)
        ECDiffParams(alpha=0.5, s=2, schedule=(0, 1), residual=1.0, edge_schedule=(3, 4))
        """
        cloud = [step for step, letter in enumerate(self.letters) if letter == "C"]
        edge = [step for step, letter in enumerate(self.letters) if letter in "EM"]
        return ECDiffParams.interleaved(cloud, edge, self.alpha, residual)


@dataclass(frozen=True)
class SplitPlacer:
    """Places the calls of both models for one estimator.

    Args:
        forecast: of both models.
        alphas: to choose from.
        residual: the factor; 0 for plans without one.
    """

    forecast: Forecast
    estimator: str
    alphas: tuple[float, ...]
    residual: float

    @property
    def _edge(self) -> str:
        return "M" if self.residual else "E"

    @property
    def _steps(self) -> int:
        return len(self.forecast.response) - 1

    def errors(self, some: Sequence[Split]) -> Array:
        """The predicted squared errors, shape (len(some),)."""
        plans = [(one.letters, one.alpha, self.residual) for one in some]
        return self.forecast.errors_of(self.estimator, self.alphas, plans)

    def propose(self, cloud_calls: int, edge_calls: int, one_way: bool) -> list[Split]:
        """Plans with so many calls, the least predicted error first.

        Args:
            edge_calls: those for the residual included.
            one_way: whether the cloud's calls all come before the edge's.
        """
        begun = list(dict.fromkeys(self.beginnings(cloud_calls, edge_calls, one_way)))
        some = [Split(letters, alpha) for letters, alpha in itertools.product(begun, self.alphas)]
        ranked = [some[i] for i in np.argsort(self.errors(some), kind="stable")]
        starts = {one.letters: one for one in reversed(ranked)}
        best = sorted(starts.values(), key=ranked.index)[:STARTS]
        improved = list(dict.fromkeys(self._improved(one, one_way) for one in best))
        return [improved[i] for i in np.argsort(self.errors(improved), kind="stable")]

    def beginnings(self, cloud_calls: int, edge_calls: int, one_way: bool) -> Iterator[str]:
        """Cloud calls spread by a power law up to some step, edge calls spread evenly over what is left."""
        steps, first = self._steps, min(REAL_AT_FIRST, cloud_calls)
        ends = range(cloud_calls, steps - 1, max(1, steps // 12)) if one_way else (steps - 1, steps * 3 // 4)
        for end, power in itertools.product(ends, POWERS):
            cloud = set(range(first)) | _spread(first, end, cloud_calls - first, power)
            begin = max(cloud) + 1 if one_way else first
            free = [step for step in range(begin, steps) if step not in cloud]
            for count in range(min(edge_calls, len(free)), 0, -1):
                edge = {free[i] for i in _evenly(len(free), count)}
                if first < REAL_AT_FIRST:
                    edge |= set(range(first, REAL_AT_FIRST))
                letters = "".join(
                    "C" if step in cloud else self._edge if step in edge else "A" for step in range(steps)
                )
                if self._edge_calls(letters) <= edge_calls:
                    yield letters
                    break

    def _edge_calls(self, letters: str) -> int:
        """Those for the residual included: one for every cloud step that an edge step follows."""
        own = letters.count("E") + letters.count("M")
        return own + letters.replace("A", "").count("CM")

    def _improved(self, split: Split, one_way: bool) -> Split:
        """Change one thing at a time, as long as the predicted error falls."""
        error = float(self.errors([split])[0])
        most = self._edge_calls(split.letters)
        while True:
            near = [
                one
                for one in self.near(split)
                if self._edge_calls(one.letters) <= most and (one.one_way or not one_way)
            ]
            errors = self.errors(near)
            if not len(near) or not errors.min() < error * (1 - LEAST_GAIN):
                return split
            split, error = near[int(errors.argmin())], float(errors.min())

    def near(self, split: Split) -> Iterable[Split]:
        """Another alpha; a call moved to a step without one; two calls of different models exchanged."""
        letters = split.letters
        yield from (Split(letters, other) for other in self.alphas if other != split.alpha)
        for one, other in itertools.combinations(range(1, len(letters)), 2):
            if letters[one] != letters[other]:
                swapped = list(letters)
                swapped[one], swapped[other] = swapped[other], swapped[one]
                if "A" not in swapped[:REAL_AT_FIRST]:
                    yield Split("".join(swapped), split.alpha)


def _spread(begin: int, end: int, count: int, power: float) -> set[int]:
    """So many different steps after ``begin - 1`` up to ``end``, their distances growing by a power law."""
    steps: list[int] = []
    for i in range(1, count + 1):
        at = begin - 1 + (end - begin + 1) * (i / count) ** power
        steps.append(max(steps[-1] + 1 if steps else begin, round(at)))
    return set(steps)


def _evenly(size: int, count: int) -> list[int]:
    """So many indices below ``size``, the first and the last among them where there are two."""
    return sorted({round(i) for i in np.linspace(0, size - 1, count)})
