"""A method tuned: every combination of its other values, the dial searched in each, the best one timed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.in_pair import accelerated
from ecdiff_core.methods.method import Method, Parameter, Values, shown
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.side_by_side import machine, side_by_side
from ecdiff_tune.methods import verdict
from ecdiff_tune.methods.dial import DialSearch, search
from ecdiff_tune.methods.measure import MethodMeasurer, with_value
from ecdiff_tune.methods.seen import NO_FLOOR, DialResult, Floor, Measure, does_nothing, judge, judged
from ecdiff_tune.metrics.score_format import KEPT_DIGITS


@dataclass(frozen=True)
class Winner:
    """The setting of a method that skips most and keeps the floor."""

    choice: MethodChoice
    result: DialResult


@dataclass(frozen=True)
class Tuned:
    """What tuning a method found.

    Args:
        settings: every one that was measured.
        winner: None where none that does something keeps the floor.
        present: the setting that was given whole; None where none was.
        findings: what was found of them, a line each.
        floor: what settings had to keep.
    """

    settings: tuple[Winner, ...]
    winner: Winner | None
    present: Winner | None = None
    findings: tuple[str, ...] = ()
    floor: Floor = NO_FLOOR

    def table(self) -> pd.DataFrame:
        """A row a setting, in the order in which they were measured."""
        return pd.DataFrame(
            {
                "method": one.choice.name,
                **{k: _cell(v) for k, v in one.choice.values.items() if _cell(v) != ""},
                "prompts": len(one.result.seen),
                "quality": round(one.result.quality, KEPT_DIGITS),
                "worst": round(one.result.worst, KEPT_DIGITS),
                "work": round(one.result.work, KEPT_DIGITS),
                "reused": round(one.result.reused, KEPT_DIGITS),
                "kept": one.result.kept,
                "reason": one.result.reason,
            }
            for one in self.settings
        ).astype(object)  # whole numbers stay whole beside the rows of other methods


def _cell(value: Any) -> Any:
    return shown(value) if isinstance(value, tuple) else value


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
    floor: Callable[[DialResult | None], Floor],
    log: Callable[[str], None],
    presets: Mapping[str, Values] | None = None,
) -> Tuned:
    """Search a method's settings.

    Args:
        fixed: values that are given; with the dial among them, or what says everything in its place, that
            setting is measured first, on all prompts.
        floor: what is to be kept, of what that one gives.
        log: called with a line a setting.
        presets: settings of the method's authors that are measured too, by name.
    """
    dial = method.parameter(method.dial)
    findings: list[str] = []

    def note(line: str) -> None:
        log(line)
        findings.append(line)

    present = _present(method, fixed, measurer, prompts, note)
    # What nothing keeps is no floor for anything.
    keep = floor(None if present is None or does_nothing(dial, present.result) else present.result)
    note(f"{method.label}, wanted: {keep}, or better")
    if present is not None:
        seen = present.result.seen
        present = replace(present, result=judged(present.result.value, seen, prompts, keep))
    settings = [] if present is None else [present]
    others = {name: value for name, value in fixed.items() if name != method.whole}
    for choice, found in _searched(method, others, measurer, prompts, keep, present).items():
        made = [Winner(with_value(choice, one.value), one) for one in found.results]
        made = [one for one in made if present is None or one.choice != present.choice]
        settings += made
        _report(choice, found, [one.result for one in made], prompts, note)
    for name, values in (presets or {}).items():
        choice = MethodChoice(method.name, {**others, **values})
        whole = present is not None
        result = judge(choice.values[method.dial], _measure(measurer, choice), prompts, keep, whole)
        settings.append(Winner(choice, result))
        note(f"  {name}, a preset: {verdict.about(choice, result, prompts)}")
        if present is not None and (line := verdict.beaten(name, present.result, result)):
            note(f"  {line}")
    kept = [one for one in settings if one.result.kept and len(one.result.seen) == prompts]
    kept = [one for one in kept if not does_nothing(dial, one.result)]
    best = min(kept, key=lambda one: _rank(dial, one.result), default=None)
    return Tuned(tuple(settings), best, present, tuple(findings), keep)


def _rank(dial: Parameter, result: DialResult) -> tuple[float, ...]:
    """The less, the faster; what makes calls cheaper applies all weights whatever its dial is."""
    return (result.work, -result.quality) if dial.shows else (-result.value,)


def _searched(
    method: Method,
    others: Values,
    measurer: MethodMeasurer,
    prompts: int,
    floor: Floor,
    present: Winner | None,
) -> Mapping[MethodChoice, DialSearch]:
    """The dial searched in every combination: on a few prompts at first, on all of them only where the best
    value may be better than what was found before.

    Args:
        others: values that are given.
        present: a setting that was measured on all prompts; None where none was.
    """
    dial, winner = method.parameter(method.dial), None
    if dial.in_calls:
        dial = replace(dial, high=min(dial.high, measurer.num_steps))

    def searched(choice: MethodChoice, wanted: Callable[[DialResult], bool]) -> DialSearch:
        start, measure = min(choice.values[dial.name], dial.high), _measure(measurer, choice)
        known = [present.result] if present is not None and present.choice == choice else []
        return search(dial, start, measure, prompts, floor, wanted, known)

    def is_ahead(one: DialResult) -> bool:
        if does_nothing(dial, one):
            return False
        return winner is None or _rank(dial, one) < _rank(dial, winner.on(len(one.seen)))

    found = {one: searched(one, lambda _: False) for one in combinations(method, others)}
    looked = {one: found[one].best for one in found}
    for choice in sorted(
        looked, key=lambda one: (math.inf,) if (best := looked[one]) is None else _rank(dial, best)
    ):
        found[choice] = searched(choice, is_ahead)
        best = found[choice].best
        if best is not None and len(best.seen) == prompts and is_ahead(best):
            winner = best
    return found


def _present(
    method: Method, fixed: Values, measurer: MethodMeasurer, prompts: int, log: Callable[[str], None]
) -> Winner | None:
    """The setting that is given whole, on all prompts; None where none is."""
    if method.dial not in fixed and not fixed.get(method.whole):
        return None
    choice = MethodChoice(method.name, fixed)
    result = judge(choice.values[method.dial], _measure(measurer, choice), prompts, NO_FLOOR, True)
    log(f"your present setting: {verdict.about(choice, result, prompts)}")
    for line in verdict.notes(choice, result, prompts):
        log(line)
    return Winner(choice, result)


def _measure(measurer: MethodMeasurer, choice: MethodChoice) -> Measure:
    return lambda value, count: measurer.measure(with_value(choice, value), count)


def _report(
    choice: MethodChoice,
    found: DialSearch,
    results: Sequence[DialResult],
    prompts: int,
    log: Callable[[str], None],
) -> None:
    tried = [one.name for one in choice.method.parameters if one.grid and one.name != choice.method.dial]
    if tried:
        log(f"{choice.method.label} {' '.join(f'{name}={shown(choice.values[name])}' for name in tried)}:")
    for result in results:
        log(f"  {verdict.about(choice, result, prompts)}")
        for line in verdict.notes(choice, result, prompts):
            log(f"  {line}")
    if line := verdict.limit(choice, found, prompts):
        log(f"  {line}")
    if found.best is not None and len(found.best.seen) < prompts:
        idle = does_nothing(choice.method.parameter(choice.method.dial), found.best)
        why = "it does nothing" if idle else "another setting is ahead of it"
        log(f"  {choice.method.dial}={found.best.value:.6g} is not measured on all prompts: {why}")


def time_side_by_side(
    pipe: ECDiffPipeline,
    choices: Sequence[MethodChoice],
    prompts: CalibrationSet,
    count: int,
    ledger: Ledger,
    calls: Counter[str],
) -> tuple[float, dict[MethodChoice, float]]:
    """Median seconds of an image without a method and with each, at batch 1, taking turns prompt by prompt.

    Turns that the ledger holds of these same choices are not taken again.

    Args:
        calls: to count model calls and decodes in.

    Returns:
        Seconds without; seconds by choice.
    """
    sampling = pipe.config.sampling

    def take(one: MethodChoice | None, row: int) -> float:
        generator = torch.Generator().manual_seed(prompts.seeds[row])
        with accelerated(pipe.pair, one, pipe.num_steps, sampling.guidance_scale, pipe.scheduler):
            output = pipe(prompts.prompts[row], generator=generator, output_type="pt")
        calls.update(cloud=pipe.num_steps, decode=1)
        return output.seconds.total

    keys: dict[MethodChoice | None, ConfigKey] = {
        one: ConfigKey("", 0.0, "", "", "off" if one is None else one.text) for one in (None, *choices)
    }
    median = side_by_side(ledger, keys, machine(pipe.device), prompts.keys[:count], take)
    return median[None], {one: seconds for one, seconds in median.items() if one is not None}
