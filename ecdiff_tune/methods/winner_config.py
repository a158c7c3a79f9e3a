"""The YAML of an acceleration that won."""

from __future__ import annotations

from ecdiff_core.config import TunedConfig
from ecdiff_core.methods.method import Values
from ecdiff_tune.methods.seen import DialResult
from ecdiff_tune.methods.tuning import Winner
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import KEPT_DIGITS


def config_of(
    base: TunedConfig,
    winner: Winner,
    seconds: float,
    off: float,
    heldout: DialResult | None,
    how: Values,
    seed: int,
) -> TunedConfig:
    """The YAML of a winner.

    Args:
        base: the cloud alone.
        seconds, off: an image, with the method and without.
        how: it was found, for the provenance.
        seed: of the intervals.
    """
    score = {
        **_score(winner.result, seed),
        "work": round(winner.result.work, KEPT_DIGITS),
        "reused": round(winner.result.reused, KEPT_DIGITS),
        "seconds": round(seconds, 6),
        "seconds_off": round(off, 6),
    }
    if heldout is not None:
        score["heldout"] = {**_score(heldout, seed), "num_prompts": len(heldout.seen)}
    return TunedConfig(
        base.pair,
        base.params,
        base.sampling,
        score,
        dict(how),
        base.scheduler_config,
        winner.choice,
    )


def _score(result: DialResult, seed: int) -> dict[str, object]:
    qualities = [one.quality for one in result.seen if one.quality is not None]
    return {
        "quality": round(result.quality, KEPT_DIGITS),
        "quality_ci95": [round(one, KEPT_DIGITS) for one in interval95(qualities, seed)]
        if qualities
        else None,
        "worst": round(result.worst, KEPT_DIGITS),
    }
