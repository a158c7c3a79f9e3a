"""Accelerations at equal seconds: of the settings that a study measured, the best that takes no longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ecdiff_core.config import Sampling
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.experiments.methods import ComparedMethod
from ecdiff_tune.methods.measure import Runs, whole_key
from ecdiff_tune.methods.seen import Seen

BELOW, ABOVE = 3, 1
"""Settings of a method that are timed: which apply less of the weights than the budget's share, or more."""


@dataclass(frozen=True)
class Setting:
    """A setting that a study measured.

    Args:
        quality: mean SSIM on the prompts that all settings of its method were measured on; -1 where an image
            could not be made.
        work: mean share of the weights that a call applied there, 0 … 1.
    """

    choice: MethodChoice
    quality: float
    work: float


def measured_settings(
    runs: Runs, ledger: Ledger, sampling: Sampling, prompts: Sequence[str]
) -> dict[str, list[Setting]]:
    """The settings that a study measured, by the names of their methods.

    Args:
        sampling: the study's.
        prompts: keys of those that it was tuned on.
    """
    whole = whole_key(sampling)
    found: dict[str, list[tuple[MethodChoice, dict[str, Seen]]]] = {}
    for choice in runs.choices():
        known = {name: runs.recall(ledger, whole, choice, name) for name in prompts}
        seen = {name: one for name, one in known.items() if one is not None}
        if seen:
            found.setdefault(choice.name, []).append((choice, seen))
    settings = {}
    for name, rows in found.items():
        shared = [one for one in prompts if all(one in seen for _, seen in rows)]
        settings[name] = [
            Setting(
                choice,
                fmean(seen[one].counted for one in shared),
                fmean(seen[one].work for one in shared),
            )
            for choice, seen in rows
            if shared
        ]
    return {name: front(rows) for name, rows in settings.items() if rows}


def front(settings: Sequence[Setting]) -> list[Setting]:
    """Those that no other beats in quality at no more cost; the cheapest first."""

    def cost(one: Setting) -> tuple[float, float]:
        # What makes calls cheaper applies all weights whatever its dial is.
        dial = one.choice.method.dial
        shows = one.choice.method.parameter(dial).shows
        return (one.work, -one.quality) if shows else (-one.choice.values[dial], -one.quality)

    found: list[Setting] = []
    for one in sorted(settings, key=cost):
        if not found or one.quality > found[-1].quality:
            found.append(one)
    return found


def near(settings: Sequence[Setting], share: float) -> list[Setting]:
    """The few of a front that are worth a clock.

    Args:
        share: the budget, of the seconds without a method.
    """
    below = sum(one.work <= share for one in settings)
    return list(settings[max(0, below - BELOW) : below + ABOVE])


def candidates(
    method: ComparedMethod, settings: Mapping[str, Sequence[Setting]], share: float
) -> list[ComparedMethod]:
    """A method with the settings that are worth a clock; itself where nothing else was measured."""
    label = method.label.removesuffix(" (tuned)") + " (tuned)"
    return [
        replace(method, label=label, sampler=replace(method.sampler, acceleration=one.choice))
        for one in near(settings.get(method.name, ()), share)
    ] or [method]


def best_within(
    group: Sequence[ComparedMethod],
    seconds: Mapping[ComparedMethod, float | None],
    settings: Sequence[Setting],
    budget: float,
) -> ComparedMethod:
    """The best of one method's settings that takes no longer than the budget; where none does, the fastest.

    Args:
        seconds: by the clock; None where there is no image.
    """
    quality: dict[MethodChoice | None, float] = {one.choice: one.quality for one in settings}
    timed = [(one, taken) for one in group if (taken := seconds[one]) is not None]
    within = [one for one, taken in timed if taken <= budget]
    if within:
        return max(within, key=lambda one: quality.get(one.sampler.acceleration, 0.0))
    return min(timed, key=lambda pair: pair[1])[0] if timed else group[0]


@dataclass(frozen=True)
class EqualSeconds:
    """What is compared, and its seconds by the clock, all side by side.

    Args:
        budget: seconds that accelerations may take; None where there is nothing to hold them to.
        seconds: by the names of methods; None where there is no image.
    """

    methods: tuple[ComparedMethod, ...]
    seconds: Mapping[str, float | None]
    budget: float | None


def choose(
    methods: Sequence[ComparedMethod],
    settings: Mapping[str, Sequence[Setting]],
    share: float,
    clock: Callable[[Sequence[ComparedMethod]], Mapping[ComparedMethod, float | None]],
    budget_of: Callable[[Mapping[str, float | None]], float | None],
) -> EqualSeconds:
    """Every acceleration with the best of its measured settings within the budget; as given without one.

    Args:
        settings: fronts by the names of methods; empty where nothing sets a budget.
        share: of the seconds without a method that the budget is about, by which settings are picked.
        clock: times methods side by side.
        budget_of: the budget, of the seconds of what has no settings.
    """
    groups = {one: candidates(one, settings, share) for one in methods}
    timed = clock([one for group in groups.values() for one in group])
    budget = budget_of({group[0].name: timed[group[0]] for group in groups.values()})
    if budget is None and any(one not in timed for one in methods):
        timed = clock(methods)
    found = [
        one
        if budget is None or one.sampler.acceleration is None
        else best_within(group, timed, settings.get(one.name, ()), budget)
        for one, group in groups.items()
    ]
    return EqualSeconds(tuple(found), {one.name: timed.get(one) for one in found}, budget)
