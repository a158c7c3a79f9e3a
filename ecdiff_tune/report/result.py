"""What is said of a result, on the terminal and in the page: scores, ties, warnings, what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.io.text import counted
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import tables
from ecdiff_tune.study.progress import describe
from ecdiff_tune.study.spec import StudySpec

_USUAL = {name: getattr(Sampling(), name) for name in ("estimator", "handoff_adapter", "handoff")}
NAMED = 5
"""Tied configs that are named on the terminal; the YAML lists all."""


def result_lines(
    config: TunedConfig, num_prompts: int, cloud_seconds: float, min_quality: float | None = None
) -> list[str]:
    """A sentence, a Table 5 row, quality and objective with their intervals, ties, calls and seconds.

    Args:
        num_prompts: in the calibration set, where the score does not tell how many it is of.
        cloud_seconds: of an image or video by the cloud alone.
        min_quality: mean SSIM that was asked for.
    """
    score = config.score or {}
    made, count = made_by(config.sampling), score.get("num_prompts", num_prompts)
    seconds = f"{score['seconds']:.2f} s {made} (cloud only {cloud_seconds:.2f} s)"
    return [
        repeatable(config, cloud_seconds),
        *tables.table5([config]).splitlines(),
        f"quality {_with_interval(score, 'quality')} on {counted(count, 'prompt')}"
        f"{_heldout(score, 'quality')}",
        f"objective {_with_interval(score, 'objective')}{_heldout(score, 'objective')}",
        *([f"note: {heldout_verdict(score)}"] if falls_short(score) else []),
        *_floor_note(score, min_quality),
        *tied_line((config.provenance or {}).get("tied", ()), score["seconds"], made),
        " · ".join([str(config.plan()), *_ways(config.sampling), seconds]),
    ]


def repeatable(config: TunedConfig, cloud_seconds: float) -> str:
    """What was won, in one sentence that can be repeated elsewhere."""
    score, plan = config.score or {}, config.plan()
    held = (score.get("heldout") or {}).get("quality")
    quality = score["quality"] if held is None else held
    where = "the prompts it was tuned on" if held is None else "prompts it was not tuned on"
    edge = f" and {counted(plan.edge_calls, 'edge call')}" if plan.edge_calls else ""
    ended = race_end(config)
    return (
        f"{counted(plan.cloud_calls, 'cloud call')}{edge} in place of {plan.num_steps} cloud calls, "
        f"{cloud_seconds / score['seconds']:.1f} times as fast, SSIM {shown(quality, 3)} to the cloud's own "
        f"{medium(config.sampling)}s on {where}{fewer_steps(score)}{f'; {ended}' if ended else ''}."
    )


def fewer_steps(score: Mapping[str, Any]) -> str:
    """The cloud alone in the same time, as the end of a sentence; empty where that was not measured.

    >>> fewer = {"steps": 14, "scheduler": "DDIMScheduler", "quality": 0.975, "tuned": 0.949}
    >>> fewer["num_prompts"] = 16
    >>> fewer_steps({"heldout": {"num_prompts": 16, "fewer_steps": fewer}})
    '; fewer DDIM steps at the same time (14) give 0.975'
    >>> fewer_steps({"heldout": {"num_prompts": 50, "fewer_steps": fewer}})
    '; fewer DDIM steps at the same time (14) give 0.975 on 16 of them, where it has 0.949'
    """
    held = score.get("heldout") or {}
    if not (fewer := held.get("fewer_steps")):
        return ""
    count, name = fewer["num_prompts"], fewer["scheduler"].removesuffix("Scheduler")
    where = f" on {count} of them, where it has {shown(fewer['tuned'], 3)}" * (count < held["num_prompts"])
    quality = shown(fewer["quality"], 3)
    return f"; fewer {name} steps at the same time ({fewer['steps']}) give {quality}{where}"


def race_end(config: TunedConfig) -> str:
    """On how many prompts the race ended; empty where it was to come to all, or had to."""
    calibration = (config.provenance or {}).get("calibration") or {}
    used, drawn = calibration.get("num_prompts", 0), calibration.get("drawn", 0)
    return f"the race ended after {used} of {counted(drawn, 'prompt')}" if used < drawn else ""


def _ways(sampling: Sampling) -> list[str]:
    """How approximated and edge steps are made, where not as usual."""
    given = {name: getattr(sampling, name) for name in _USUAL}
    return [f"{name} {value}" for name, value in given.items() if value != _USUAL[name]]


def medium(sampling: Sampling) -> str:
    """What a generation makes: image or video."""
    return "video" if (sampling.num_frames or 1) > 1 else "image"


def made_by(sampling: Sampling) -> str:
    """The same with an article."""
    made = medium(sampling)
    return f"{'an' if made == 'image' else 'a'} {made}"


def _with_interval(score: Mapping[str, Any], name: str) -> str:
    low, high = score[f"{name}_ci95"]
    return f"{shown(score[name])} (95% {shown(low)} … {shown(high)})"


def _heldout(score: Mapping[str, Any], name: str) -> str:
    held = score.get("heldout") or {}
    if held.get(name) is None:
        return ""
    return f", {shown(held[name])} on {counted(held['num_prompts'], 'held-out one')}"


def falls_short(score: Mapping[str, Any]) -> bool:
    """Whether held-out prompts do not bear out what the prompts that were tuned on promise."""
    held = (score.get("heldout") or {}).get("objective")
    return held is not None and bool(held < score["objective_ci95"][0])


def _floor_note(score: Mapping[str, Any], least: float | None) -> list[str]:
    held = (score.get("heldout") or {}).get("quality")
    if least is None or held is None or held >= least:
        return []
    return [
        f"note: on held-out prompts the quality that was asked for is not kept ({shown(held)}, "
        f"wanted {least:g}): tune on more prompts, or ask for a higher min_quality."
    ]


def heldout_verdict(score: Mapping[str, Any]) -> str:
    """How the objective on held-out prompts lies to the interval of those tuned on; empty without them."""
    held, (low, high) = (score.get("heldout") or {}).get("objective"), score["objective_ci95"]
    if held is None:
        return ""
    where = "below" if held < low else "within" if held <= high else "above"
    advice = ": expect less than was tuned, or tune on more prompts." if held < low else "."
    return (
        f"The objective on held-out prompts, {shown(held)}, lies {where} the 95% interval of the prompts "
        f"that were tuned on, {shown(low)} … {shown(high)}{advice}"
    )


def tied_line(tied: Any, seconds: float, made: str = "an image") -> list[str]:
    """The configs that the prompts cannot tell from the winner; none is no line.

    >>> tied_line([{"p": 3, "k": 5, "alpha": 0.1, "s": 39, "seconds": 0.5}], 0.72)
    ['tied with the winner: p=3 k=5 alpha=0.1 s=39 (the cheapest, 0.50 s an image)']
    """
    if not tied:
        return []
    first, *others = [_named(one) for one in tied[:NAMED]]
    if tied[0]["seconds"] < seconds:
        head = f"tied with the winner: {first} (the cheapest, {tied[0]['seconds']:.2f} s {made})"
    else:
        head = f"tied with the winner, which is the cheapest: {first}"
    more = f" and {len(tied) - NAMED} more" if len(tied) > NAMED else ""
    return [", ".join([head, *others]) + more]


def _named(config: Mapping[str, Any]) -> str:
    words = [f"{name}={config[name]:g}" for name in ("p", "k", "alpha", "s") if config.get(name) is not None]
    if config.get("schedule"):
        words.insert(0, f"steps {','.join(map(str, config['schedule']))}")
    words += [config[name] for name, usual in _USUAL.items() if config.get(name, usual) != usual]
    return " ".join(words)


def command(name: str, spec: StudySpec) -> str:
    """A command line that goes on with the study."""
    pair = spec.pair.name
    has_config = (config_folder() / "pair" / f"{pair}.yaml").is_file()
    named = [f"pair={pair}"] if has_config else ["pair=custom", f"pair.name={pair}"]
    for key in ("study", "output_dir"):
        if spec.settings[key] != spec.defaults[key]:
            named.append(f"{key}={spec.settings[key]}")
    return shlex.join(["python", "-m", "ecdiff_tune", name, *named])


def faster_and_better(winner: Trial, trials: Sequence[Trial]) -> Trial | None:
    """The trial of the highest quality that beats the winner in quality and in seconds; None if none does."""
    found = [one for one in trials if one.seconds < winner.seconds and one.quality > winner.quality]
    return max(found, key=lambda one: (one.quality, -one.seconds), default=None)


def beaten_note(
    winner: Trial, trials: Sequence[Trial], spec: StudySpec, made: str, given: Sequence[str] = ()
) -> list[str]:
    """Says which config is both faster than the winner and nearer to the cloud's images, why it lost
    (eq. 12 also rewards the edge's steps), and the command that writes it; empty if there is none.

    Args:
        trials: all that the study measured, scored with their burden.
        spec: the study's own.
        made: what a generation makes, with its article.
        given: settings that seconds follow from, where they are not the study's own.
    """
    other = faster_and_better(winner, trials)
    if other is None:
        return []
    limit = _between(other.seconds, winner.seconds)
    write = " ".join([command("pareto", spec), *map(shlex.quote, given)])
    objectives = f"{shown(winner.value)} to {shown(other.value)}"
    why = (
        f"the winner leads by its burden alone (objective {objectives})"
        if winner.value >= other.value
        else f"its objective is higher, too ({objectives}), but its s was not searched"
    )
    named = describe(other.candidate, "joint", bool(other.key.alpha))
    return [
        f"note: {named} is faster and nearer to the cloud's images: quality "
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
