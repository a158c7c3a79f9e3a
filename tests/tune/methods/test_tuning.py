"""Which of a method's settings wins, with measurements that are made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ecdiff_core.methods import get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.masks import mask_of
from ecdiff_core.methods.method import Values
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.methods import tuning as tuned_module
from ecdiff_tune.methods import verdict
from ecdiff_tune.methods.measure import MethodMeasurer
from ecdiff_tune.methods.seen import DialResult, Floor, Seen
from ecdiff_tune.methods.tuning import Tuned, time_side_by_side, tune


class Made:
    """A measurer of three prompts: quality, work and reused calls of a setting are given."""

    num_steps = 20

    def __init__(self, give: Callable[[MethodChoice], tuple[float, float, int]]) -> None:
        self._give = give

    def measure(self, choice: MethodChoice, first: int | None = None) -> list[Seen]:
        value = choice.values[choice.method.dial]
        quality, work, reused = self._give(choice)
        return [Seen(quality, work, 20, reused, f"{value}", value, value)] * (first or 3)


def tuned(
    name: str, made: Made, presets: Mapping[str, Values] | None = None, /, **fixed: Any
) -> tuple[Tuned, list[str], list[DialResult | None]]:
    lines: list[str] = []
    presents: list[DialResult | None] = []

    def floor(present: DialResult | None) -> Floor:
        presents.append(present)
        return Floor(0.9, 0.8) if present is None else Floor(present.quality, present.worst)

    found = tune(get_method(name), fixed, cast(MethodMeasurer, made), 3, floor, lines.append, presets)
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
    assert lines[1:3] == [
        "cache_interval=1: no step was skipped, whatever the prompt: this setting does nothing",
        "TaylorSeer, wanted: mean SSIM 0.9 and worst 0.8, or better",
    ]
    assert found.floor == Floor(0.9, 0.8)
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


def test_only_what_is_ahead_is_measured_on_all_prompts() -> None:
    """Of three orders one keeps the floor at a greater interval."""

    def give(choice: MethodChoice) -> tuple[float, float, int]:
        quality, work, reused = interval(choice)
        return (quality - 0.04 * (choice.values["max_order"] != 2), work, reused)

    found, lines, _ = tuned("taylorseer", Made(give))
    assert found.winner is not None
    assert found.winner.choice.values["max_order"] == 2
    assert found.winner.choice.values["cache_interval"] == 2
    whole = {one.choice.values["max_order"] for one in found.settings if len(one.result.seen) == 3}
    assert whole == {2}
    assert sum("not measured on all prompts: it does nothing" in line for line in lines) == 2


def test_the_search_goes_on_from_a_present_setting() -> None:
    """Which is known on all prompts: no look says something else of it, and nothing below it is tried."""
    found, lines, _ = tuned("taylorseer", Made(interval), cache_interval=20, max_order=1)
    assert [one.choice.values["cache_interval"] for one in found.settings] == [20]
    assert found.winner is not None
    assert found.winner.choice.values["cache_interval"] == 20
    assert lines[-1].strip() == (
        "the floor is kept on 3 prompts up to cache_interval=20, the greatest that there is"
    )
    found, _, _ = tuned("taylorseer", Made(interval), cache_interval=3, max_order=1)
    assert [one.choice.values["cache_interval"] for one in found.settings] == [3, 6, 4]


def test_what_is_behind_is_looked_at_beyond_a_present_setting_too() -> None:
    most = {0: 2, 1: 4, 2: 8}

    def give(choice: MethodChoice) -> tuple[float, float, int]:
        value = choice.values["cache_interval"]
        return (0.95 if value <= most[choice.values["max_order"]] else 0.85), 1 / value, 20 - 20 // value

    found, lines, _ = tuned("taylorseer", Made(give), cache_interval=3)  # of order 1
    assert found.winner is not None
    assert found.winner.choice.values["max_order"] == 2
    assert found.winner.choice.values["cache_interval"] == 8
    behind = "cache_interval=4 is not measured on all prompts: another setting is ahead of it"
    assert behind in [line.strip() for line in lines]
    assert not any("limit between cache_interval 3" in line for line in lines)


def test_a_present_setting_is_held_against_what_is_asked_for() -> None:
    lines: list[str] = []
    made, fixed = cast(MethodMeasurer, Made(interval)), {"cache_interval": 3, "max_order": 1}
    found = tune(get_method("taylorseer"), fixed, made, 3, lambda _: Floor(0.9, 0.9), lines.append)
    table = found.table().set_index("cache_interval")
    assert not table.loc[3, "kept"]
    assert table.loc[3, "reason"] == "worst SSIM 0.8500 is below 0.9"
    assert found.winner is not None
    assert found.winner.choice.values["cache_interval"] == 2
    assert sum("cache_interval=3: " in line for line in lines) == 1


def test_no_more_calls_are_counted_than_there_are() -> None:
    made = Made(lambda choice: interval(choice) if choice.values["cache_interval"] == 1 else (1.0, 0.5, 10))
    made.num_steps = 7
    found, lines, _ = tuned("taylorseer", made, max_order=1)
    assert [one.choice.values["cache_interval"] for one in found.settings] == [5, 7]
    assert lines[-1].endswith("up to cache_interval=7, the greatest that there is")
    made = Made(lambda choice: (1.0 if choice.values["cache_interval"] <= 2 else 0.5, 0.5, 10))
    made.num_steps = 7
    given = {"cache_interval": 20, "max_order": 1}
    floor, measurer = Floor(0.9, 0.9), cast(MethodMeasurer, made)
    found = tune(get_method("taylorseer"), given, measurer, 3, lambda _: floor, lambda _: None)
    assert [one.choice.values["cache_interval"] for one in found.settings] == [20, 4, 2, 3]
    made = Made(lambda choice: (1.0, 0.5, 10))
    made.num_steps = 4  # fewer than the default
    found, _, _ = tuned("taylorseer", made, max_order=1)
    assert [one.choice.values["cache_interval"] for one in found.settings] == [4]


def masked(choice: MethodChoice) -> tuple[float, float, int]:
    """The more is computed at the end, the better; the more is computed, the more work."""
    mask = mask_of(choice.values, 6)
    quality = 1 - sum((1 - one) * (1 + place) for place, one in enumerate(mask)) / 100
    return quality, sum(mask) / 6, 6 - sum(mask)


def test_a_present_mask_is_held_against_the_presets() -> None:
    presets = {"slow": {"mask": [1, 1, 1, 0, 1, 1]}, "fast": {"mask": [1, 0, 0, 1, 1, 1]}}
    mine = [1, 1, 1, 1, 0, 0]  # computes as much as fast, where it matters less
    found, lines, (present,) = tuned("step_mask", Made(masked), presets, mask=mine)
    assert lines[0].startswith("your present setting: Step mask mask=111100: mean SSIM 0.8900")
    assert present is not None
    assert present.quality == pytest.approx(0.89)
    assert [line.strip() for line in lines if "does worse" in line] == [
        "your present setting does worse than fast, which computes no more: mean SSIM 0.8900 against 0.9500"
    ]
    assert found.winner is not None
    assert found.winner.choice.values["mask"] == (1, 0, 0, 1, 1, 1)  # of equal work the best
    assert list(found.table()["mask"].dropna()) == ["111100", "111011", "100111"]
    assert lines.count("Step mask warmup=3:") == 1


def test_seconds_beside_other_choices_are_other_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load of the machine changes: what was taken beside one choice says nothing of another."""
    load = iter([1.0] * 6 + [3.0] * 6)
    asked: list[str] = []

    def pipe(prompt: str, **_: object) -> SimpleNamespace:
        asked.append(prompt)
        return SimpleNamespace(seconds=SimpleNamespace(total=next(load)))

    monkeypatch.setattr(tuned_module, "accelerated", lambda *_, **__: nullcontext())
    fake: Any = pipe
    fake.pair, fake.num_steps, fake.scheduler = None, 20, None
    fake.device = torch.device("cpu")
    fake.config = SimpleNamespace(sampling=SimpleNamespace(guidance_scale=1.0))
    prompts: Any = SimpleNamespace(prompts=["p", "q"], keys=["a", "b"], seeds=[0, 1])
    first, second = MethodChoice("taylorseer", {"cache_interval": 2}), MethodChoice("tome")
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        calls: Counter[str] = Counter()
        measure = partial(time_side_by_side, fake, prompts=prompts, count=2, ledger=ledger, calls=calls)
        assert measure(choices=[first]) == (1.0, {first: 1.0})
        assert measure(choices=[second]) == (3.0, {second: 3.0})
        assert asked == ["p", "p", "p", "p", "q", "q"] * 2
        assert measure(choices=[first]) == (1.0, {first: 1.0})  # nothing is timed again
    assert calls == {"cloud": 12 * 20, "decode": 12}


@pytest.mark.parametrize(
    ("qualities", "said"),
    [
        ((0.97, 0.95), ""),
        ((0.96, 0.90), "is not kept (mean 0.95)"),
        ((0.99, 0.99, 0.99, 0.85), "is not kept (worst 0.9)"),
        ((0.96, 0.65), "is not kept (mean 0.95 and worst 0.9)"),
    ],
)
def test_a_floor_that_is_missed_on_held_out_prompts_is_said(qualities: Sequence[float], said: str) -> None:
    seen = tuple(Seen(one, 0.5, 20, 10, "a", 1.0, 1.0) for one in qualities)
    first, *notes = verdict.held_out(DialResult(1.0, seen, True), (0.9, 1.0), Floor(0.95, 0.9))
    assert first.endswith(f"(0.9000 … 1.0000), worst {min(qualities):.4f} on {len(seen)} prompts")
    assert len(notes) == bool(said)
    assert all(said in line for line in notes)
