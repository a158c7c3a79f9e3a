"""A method tuned: every combination of its other values, the dial searched in each, the best one timed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from ecdiff_core.config import TunedConfig
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.in_pair import accelerated
from ecdiff_core.methods.method import Method, Values
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.methods import verdict
from ecdiff_tune.methods.dial import Floor, Found, Measure, Result, does_nothing, judge, search
from ecdiff_tune.methods.measure import MethodMeasurer, content, with_value
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import KEPT_DIGITS


@dataclass(frozen=True)
class Winner:
    """The setting of a method that skips most and keeps the floor."""

    choice: MethodChoice
    result: Result


@dataclass(frozen=True)
class Tuned:
    """What tuning a method found.

    Args:
        settings: every one that was measured.
        winner: None where none that does something keeps the floor.
    """

    settings: tuple[Winner, ...]
    winner: Winner | None

    def table(self) -> pd.DataFrame:
        """A row a setting, in the order in which they were measured."""
        return pd.DataFrame(
            {
                "method": one.choice.name,
                **{k: v for k, v in one.choice.values.items() if not isinstance(v, tuple)},
                "prompts": len(one.result.seen),
                "quality": round(one.result.quality, KEPT_DIGITS),
                "worst": round(one.result.worst, KEPT_DIGITS),
                "work": round(one.result.work, KEPT_DIGITS),
                "reused": round(one.result.reused, KEPT_DIGITS),
                "kept": one.result.kept,
                "reason": one.result.reason,
            }
            for one in self.settings
        )


def combinations(method: Method, fixed: Values) -> Iterator[MethodChoice]:
    """The method with every combination of values to try of what is not the dial; defaults first.

    Args:
        fixed: values that are given.
    """
    others = [one for one in method.parameters if one.name not in (method.dial, *fixed) and one.grid]
    grids = [[one.default, *(value for value in one.grid if value != one.default)] for one in others]
    for values in itertools.product(*grids):
        yield MethodChoice(method.name, {**fixed, **dict(zip([o.name for o in others], values, strict=True))})


def tune(
    method: Method,
    fixed: Values,
    measurer: MethodMeasurer,
    prompts: int,
    floor: Callable[[Result | None], Floor],
    log: Callable[[str], None],
) -> Tuned:
    """Search a method's settings.

    Args:
        fixed: values that are given; with the dial among them that setting is measured first, on all prompts.
        floor: what is to be kept, of what that one gives.
        log: called with a line a setting.
    """
    settings: list[Winner] = []
    present: Result | None = None
    dial = method.parameter(method.dial)
    if method.dial in fixed:
        choice = MethodChoice(method.name, fixed)
        present = judge(choice.values[method.dial], _measure(measurer, choice), prompts, Floor(-1, -1), True)
        settings.append(Winner(choice, present))
        log(f"your present setting: {verdict.about(choice, present)}")
        for line in verdict.notes(choice, present):
            log(line)
        if does_nothing(dial, present):
            present = None  # what nothing keeps is no floor for anything
    keep = floor(present)
    for choice in combinations(method, fixed):
        start = choice.values[method.dial]
        found = search(dial, start, _measure(measurer, choice), prompts, keep)
        settings += [Winner(with_value(choice, one.value), one) for one in found.results]
        _report(choice, found, log)
    kept = [one for one in settings if one.result.kept and len(one.result.seen) == prompts]
    kept = [one for one in kept if one.result.quality >= keep.mean and one.result.worst >= keep.worst]
    kept = [one for one in kept if not does_nothing(dial, one.result)]
    # What makes calls cheaper applies all weights whatever its dial is.
    best = min(kept, key=lambda one: one.result.work if dial.shows else -one.result.value, default=None)
    return Tuned(tuple(settings), best)


def _measure(measurer: MethodMeasurer, choice: MethodChoice) -> Measure:
    return lambda value, count: measurer.measure(with_value(choice, value), count)


def _report(choice: MethodChoice, found: Found, log: Callable[[str], None]) -> None:
    others = content(choice)
    if others != choice.method.label:
        log(f"{others}:")
    for result in found.results:
        log(f"  {verdict.about(choice, result)}")
        for line in verdict.notes(choice, result):
            log(f"  {line}")
    if line := verdict.limit(choice, found):
        log(f"  {line}")


def time_side_by_side(
    pipe: ECDiffPipeline, choices: Sequence[MethodChoice], prompts: CalibrationSet, count: int, ledger: Ledger
) -> tuple[float, dict[str, float]]:
    """Median seconds of an image without a method and with each, at batch 1, taking turns prompt by prompt.

    Timings that the ledger holds are not taken again.

    Returns:
        Seconds without; seconds by the names of the methods.
    """
    keys: dict[MethodChoice | None, ConfigKey] = {
        one: ConfigKey("", 0.0, "", "", "side by side " + ("off" if one is None else one.text))
        for one in (None, *choices)
    }
    names = prompts.keys[:count]
    known = {one: ledger.read_timings(key) for one, key in keys.items()}
    lacking = [one for one in keys if not set(names) <= known[one].keys()]
    if lacking:
        lacking = list(keys)  # side by side: with what is known they would meet another load
    for turn in range(-1 if lacking else 0, len(names)):
        for one in lacking:
            generator = torch.Generator().manual_seed(prompts.seeds[max(0, turn)])
            sampling = pipe.config.sampling
            with accelerated(pipe.pair, one, pipe.num_steps, sampling.guidance_scale, pipe.scheduler):
                output = pipe(prompts.prompts[max(0, turn)], generator=generator, output_type="pt")
            if turn >= 0:
                ledger.append_timing(keys[one], names[turn], output.seconds.total)
                known[one].setdefault(names[turn], output.seconds.total)
    median = {one: statistics.median(known[one][name] for name in names) for one in keys}
    return median[None], {one.name: seconds for one, seconds in median.items() if one is not None}


def config_of(
    base: TunedConfig,
    winner: Winner,
    seconds: float,
    off: float,
    heldout: Result | None,
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


def _score(result: Result, seed: int) -> dict[str, object]:
    qualities = [one.quality for one in result.seen if one.quality is not None]
    return {
        "quality": round(result.quality, KEPT_DIGITS),
        "quality_ci95": [round(one, KEPT_DIGITS) for one in interval95(qualities, seed)]
        if qualities
        else None,
        "worst": round(result.worst, KEPT_DIGITS),
    }
