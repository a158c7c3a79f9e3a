"""Which configs to measure for a front of quality, seconds and cloud calls: the forecast's, spread out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.base import Cost

LIMITED = ("seconds", "cloud_calls")


def spread_front(
    candidates: Sequence[Candidate], qualities: Sequence[float], costs: Sequence[Cost], count: int
) -> list[Candidate]:
    """Of evenly spread limits of seconds and of cloud calls, for each the best predicted that keeps it.

    Args:
        qualities: predicted; those that are not finite are left out.
        costs: of the candidates.
        count: of the limits together; fewer candidates come out where some keep several of them best.

    Returns:
        The fastest first.
    """
    known = [i for i, quality in enumerate(qualities) if math.isfinite(quality)]
    chosen: set[int] = set()
    for name, limits in zip(LIMITED, (math.ceil(count / 2), count // 2), strict=True):
        spent = np.array([getattr(costs[i], name) for i in known])
        best = int(np.argmax([qualities[i] for i in known])) if known else 0
        for limit in np.linspace(spent.min(), spent[best], limits) if known else ():
            within = [i for i, one in zip(known, spent, strict=True) if one <= limit]
            chosen.add(max(within, key=lambda i: (qualities[i], -costs[i].seconds)))
    return [candidates[i] for i in sorted(chosen, key=lambda i: (costs[i].seconds, i))]
