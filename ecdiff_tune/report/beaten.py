"""Whether another config of the study is both faster than the winner and nearer to the cloud's pictures.

Eq. 12 also rewards the steps that the edge does, so that such a config may lose.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report.command_line import command
from ecdiff_tune.study.loop import Trial
from ecdiff_tune.study.progress import describe
from ecdiff_tune.study.spec import StudySpec


def better(winner: Trial, trials: Sequence[Trial]) -> Trial | None:
    """The trial of the highest quality that beats the winner in quality and in seconds; None if none does."""
    found = [one for one in trials if one.seconds < winner.seconds and one.quality > winner.quality]
    return max(found, key=lambda one: (one.quality, -one.seconds), default=None)


def note(
    winner: Trial, trials: Sequence[Trial], spec: StudySpec, made: str, given: Sequence[str] = ()
) -> list[str]:
    """Says which it is, why it lost, and the command that writes it; empty if there is none.

    Args:
        trials: all that the study measured, scored with their burden.
        spec: the study's own.
        made: what a generation makes, with its article.
        given: settings that seconds follow from, where they are not the study's own.
    """
    other = better(winner, trials)
    if other is None:
        return []
    limit = _between(other.seconds, winner.seconds)
    write = " ".join([command("pareto", spec, config_folder() / "pair"), *map(shlex.quote, given)])
    objectives = f"{shown(winner.value)} to {shown(other.value)}"
    why = (
        f"the winner leads by its burden alone (objective {objectives})"
        if winner.value >= other.value
        else f"its objective is higher, too ({objectives}), but its s was not searched"
    )
    named = describe(other.candidate, "joint", other.plan)
    return [
        f"note: {named} is faster and nearer to the cloud's pictures: quality "
        f"{shown(other.quality)} in {other.seconds:.2f} s {made}, the winner {shown(winner.quality)} in "
        f"{winner.seconds:.2f} s; {why}. To write it: "
        f"{write} pareto.pick=best_below pareto.seconds={limit}",
    ]


def _between(low: float, high: float) -> str:
    """The shortest decimal number within low … high, near the upper end.

    >>> _between(0.6812, 0.9447), _between(0.9441, 0.9447), _between(0.5, 0.5)
    ('0.9', '0.9447', '0.5')
    """
    for digits in range(1, 15):
        value = math.floor(high * 10**digits) / 10**digits
        if low <= value:
            return f"{value:.{digits}f}"
    return repr(high)
