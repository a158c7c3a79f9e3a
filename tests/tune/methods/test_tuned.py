"""Which of a method's settings wins, with measurements that are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ecdiff_core.methods import get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_tune.methods.dial import Floor, Result, Seen
from ecdiff_tune.methods.measure import MethodMeasurer
from ecdiff_tune.methods.tuned import Tuned, tune


class Made:
    """A measurer of three prompts: quality, work and reused calls of a setting are given."""

    def __init__(self, give: Callable[[MethodChoice], tuple[float, float, int]]) -> None:
        self._give = give

    def measure(self, choice: MethodChoice, first: int | None = None) -> list[Seen]:
        value = choice.values[choice.method.dial]
        quality, work, reused = self._give(choice)
        return [Seen(quality, work, 20, reused, f"{value}", value, value)] * (first or 3)


def tuned(name: str, made: Made, **fixed: Any) -> tuple[Tuned, list[str], list[Result | None]]:
    lines: list[str] = []
    presents: list[Result | None] = []

    def floor(present: Result | None) -> Floor:
        presents.append(present)
        return Floor(0.9, 0.8) if present is None else Floor(present.quality, present.worst)

    found = tune(get_method(name), fixed, cast(MethodMeasurer, made), 3, floor, lines.append)
    return found, lines, presents


def interval(choice: MethodChoice) -> tuple[float, float, int]:
    value = choice.values["cache_interval"]
    return (0.99999, 1.0, 0) if value == 1 else (1 - value / 20, 1 / value, 20 - 20 // value)


def test_a_present_setting_is_what_must_be_kept() -> None:
    found, lines, (present,) = tuned("taylorseer", Made(interval), cache_interval=3, max_order=1)
    assert lines[0] == (
        "your present setting: TaylorSeer cache_interval=3: mean SSIM 0.8500, worst 0.8500 on 3 prompts, "
        "70% of the calls reuse, 33% of the work"
    )
    assert present is not None
    assert found.winner is not None
    assert found.winner.choice.values["cache_interval"] == 3  # the best at equal quality


def test_a_present_setting_that_does_nothing_is_no_floor() -> None:
    found, lines, presents = tuned("taylorseer", Made(interval), cache_interval=1, max_order=1)
    assert lines[1] == "cache_interval=1: no step was skipped: this setting does nothing"
    assert presents == [None]
    assert found.winner is not None
    assert found.winner.choice.values["cache_interval"] == 2


def test_what_does_nothing_wins_nothing() -> None:
    def give(choice: MethodChoice) -> tuple[float, float, int]:
        quality, work, reused = interval(choice)
        return (quality if not reused else 0.5), work, reused

    found, _, _ = tuned("taylorseer", Made(give))
    assert found.winner is None
    assert [one.choice.values["cache_interval"] for one in found.settings if one.result.kept] == [1, 1, 1]


def test_of_what_makes_calls_cheaper_the_greatest_value_wins() -> None:
    def give(choice: MethodChoice) -> tuple[float, float, int]:
        acts = choice.values["max_downsample"] == 2
        return (1 - choice.values["ratio"] / 10 if acts else 1.0), 1.0, 0

    found, _, _ = tuned("tome", Made(give))
    assert found.winner is not None
    assert found.winner.choice.values == {"ratio": 0.75, "max_downsample": 2}
