"""Whether one config is significantly worse than another, from some of the prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

TIE = 1e-9
"""Objectives that differ by less are equal."""


def significantly_worse(
    values: Sequence[float],
    leader: Sequence[float],
    num_prompts: int,
    level: float,
    margin: float = 0.0,
) -> bool:
    """Whether a config's mean over all prompts is below the leader's plus ``margin``, wrongly at most with
    probability ``level``.

    A one-sided paired t test of the differences on the prompts seen so far, a random part of a finite set:
    the error of their mean shrinks by sqrt(1 - n / N), to nothing when all N were seen (Cochran, *Sampling
    Techniques*, section 2.6). Exact for normal differences. The objective is a mean, and so a test of
    medians or ranks would ask another question.

    Args:
        values: objective prompt by prompt.
        leader: of the config that it is compared with, on the same prompts.

    >>> significantly_worse([0.50, 0.61, 0.42, 0.55], [0.60, 0.70, 0.53, 0.65], num_prompts=100, level=0.01)
    True
    >>> significantly_worse([0.50, 0.71, 0.42, 0.75], [0.60, 0.70, 0.53, 0.65], num_prompts=100, level=0.01)
    False
    """
    seen = len(values)
    differences = [other - one for one, other in zip(values, leader, strict=True)]
    gap = fmean(differences) + margin
    if gap <= TIE or seen < min(2, num_prompts):
        return False
    error = stdev(differences) * math.sqrt((1 - seen / num_prompts) / seen) if seen < num_prompts else 0.0
    return error == 0 or student_tail(gap / error, seen - 1) < level


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's distribution (Abramowitz and Stegun 26.7.3 and 26.7.4), to about 1e-15.

    >>> round(student_tail(2.262, 9), 4)  # the two-sided 5% point of nine degrees of freedom
    0.025
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for i in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (i - 1) / i * math.cos(angle) ** 2
    inside = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return (1 - inside) / 2
