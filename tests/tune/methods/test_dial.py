"""The search along a dial in worlds whose answers are known."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import pytest

from ecdiff_core.methods import get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.method import Parameter
from ecdiff_tune.methods import verdict
from ecdiff_tune.methods.dial import DialSearch, search
from ecdiff_tune.methods.seen import DialResult, Floor, Seen, judge, missed

THRESHOLD = get_method("first_block_cache").parameter("threshold")
INTERVAL = get_method("taylorseer").parameter("cache_interval")


class World:
    """Prompts on which a threshold skips a call more at each of these values, and loses so much there.

    Counts the generations that it is asked for; what skips the same calls is not generated again.
    """

    def __init__(self, changes: Sequence[float], losses: Sequence[float], shifts: Sequence[float]) -> None:
        self._changes, self._losses, self._shifts = changes, losses, shifts
        self.generated: dict[tuple[int, int], int] = {}

    def measure(self, value: float, count: int) -> list[Seen]:
        found = []
        for prompt, shift in enumerate(self._shifts[:count]):
            changes = [one * shift for one in self._changes]
            level = bisect.bisect_right(changes, value)
            self.generated[prompt, level] = 1
            ends = [-math.inf, *changes, math.inf][level : level + 2]
            quality = 1 - sum(self._losses[:level])
            found.append(Seen(quality, 1 - level / 20, 20, level, str(level), *ends))
        return found


CLIFF = World([0.05, 0.12, 0.173, 0.3], [0.01, 0.01, 0.4, 0.1], [1.0, 1.001, 0.999, 1.0002])


def test_a_cliff_is_found_between_two_patterns() -> None:
    found = search(THRESHOLD, 0.05, CLIFF.measure, 4, Floor(0.9, 0.8))
    assert found.best is not None
    assert found.beyond is not None
    assert 0.12 < found.best.value < 0.173 < found.beyond.value
    assert 0.172 < found.good < found.bad < 0.174
    assert found.best.quality == pytest.approx(0.98)
    choice = MethodChoice("first_block_cache")
    line = verdict.limit(choice, found, 4)
    assert line == "cliff between threshold 0.1728 and 0.173: mean SSIM 0.9800 to 0.5800 on 1 of 4 prompts"
    assert len(found.results) <= 12


def test_what_skips_the_same_calls_is_paid_for_once() -> None:
    world = World([0.05, 0.12, 0.173, 0.3], [0.01, 0.01, 0.4, 0.1], [1.0] * 10)
    found = search(THRESHOLD, 0.05, world.measure, 10, Floor(0.9, 0.8))
    assert found.exact  # all prompts change together: nothing lies between the two
    assert sum(world.generated.values()) < 10 * 4
    swept = [judge(0.4 * (1 + i) / 20, world.measure, 10, Floor(0.9, 0.8)) for i in range(20)]
    best = max((one for one in swept if one.kept), key=lambda one: one.value)
    assert found.best is not None
    assert found.best.work == best.work


@pytest.mark.parametrize("start", [0.02, 0.1, 0.8])
def test_the_price_is_a_fifth_of_an_even_sweep(start: float) -> None:
    prompts, changes = 50, [0.05 * 1.12**i for i in range(18)]
    losses = [0.004 * (1 + i) for i in range(18)]
    world = World(changes, losses, [1 + 0.03 * math.sin(prompt) for prompt in range(prompts)])
    floor = Floor(0.95, 0.8)
    found = search(THRESHOLD, start, world.measure, prompts, floor)
    assert found.best is not None
    assert len(found.best.seen) == prompts
    assert sum(world.generated.values()) <= 20 * prompts / 5
    swept = [judge(0.4 * (1 + i) / 20, world.measure, prompts, floor, whole=True) for i in range(20)]
    assert found.best.work <= min(one.work for one in swept if one.kept) + 0.01
    assert found.best.quality >= 0.95


@pytest.mark.parametrize("start", [0.05, 0.4])
@pytest.mark.parametrize("first", [0.6, 1.0, 1.6])
def test_the_price_is_a_fifth_where_prompts_differ(start: float, first: float) -> None:
    """The first prompts lose less than the others, as much, or more."""
    prompts, calls = 12, set()
    scales = [first, 0.8 * first] + [0.6 + 0.1 * prompt for prompt in range(prompts - 2)]

    def measure(value: float, count: int) -> list[Seen]:
        level = max(0, round(20 + 8 * math.log2(value)))
        low, high = (2 ** ((level - 20 + side) / 8) for side in (-0.5, 0.5))
        calls.update((prompt, level) for prompt in range(count))
        qualities = [1 - 0.2 * scale * low**1.5 for scale in scales[:count]]
        return [Seen(one, 1 - level / 40, 25, min(24, level), str(level), low, high) for one in qualities]

    floor = Floor(0.952, 0.8)
    found = search(THRESHOLD, start, measure, prompts, floor)
    price = len(calls)
    swept = [judge(0.04 * (1 + i), measure, prompts, floor, whole=True) for i in range(20)]
    best = max((one for one in swept if one.kept), key=lambda one: one.value)
    assert found.best is not None
    assert len(found.best.seen) == prompts
    assert found.best.quality >= 0.952
    assert found.best.work <= best.work + 1e-9
    assert price <= 20 * prompts / 5


def test_what_others_lost_on_all_prompts_is_expected_of_a_look() -> None:
    def measure(value: float, count: int) -> list[Seen]:
        losses = [value / 100] + [value / 50] * 9  # the first prompt loses half of what the others do
        return [Seen(1 - one, 1 / value, 20, 1, str(value), value, value) for one in losses[:count]]

    found = search(INTERVAL, 2, measure, 10, Floor(0.93, 0.0))
    assert found.best is not None
    assert found.best.value == 3  # 1 - 0.019 * 3; on the first prompt alone 7 keeps it
    (four,) = [one for one in found.results if one.value == 4]
    assert not four.kept
    assert len(four.seen) < 10
    assert four.reason == "mean SSIM 0.9240 is expected on all 10 prompts, below 0.93"
    looked = search(INTERVAL, 2, measure, 10, Floor(0.93, 0.0), wanted=lambda _: False)
    assert looked.best is not None
    assert (looked.best.value, len(looked.best.seen)) == (7, 1)


def test_a_glance_that_was_too_kind_is_corrected() -> None:
    """The first prompts keep the floor where the others do not."""

    def measure(value: float, count: int) -> list[Seen]:
        kind = [Seen(1 - value / 100, 1 - value / 20, 20, 1, str(value), value, value)] * 2
        late = Seen(1.0 if value <= 3 else 0.5, 1 - value / 20, 20, 1, str(value), value, value)
        return [*kind, *[late] * 18][:count]

    found = search(INTERVAL, 2, measure, 20, Floor(0.9, 0.8))
    assert found.best is not None
    assert found.beyond is not None
    assert (found.best.value, found.beyond.value, found.exact) == (3, 4, True)
    assert len(found.best.seen) == 20


def test_nothing_and_everything_is_skipped() -> None:
    nothing = World([5.0, 6.0], [0.5, 0.1], [1.0, 1.0])
    found = search(THRESHOLD, 0.05, nothing.measure, 2, Floor(0.9, 0.8))
    assert found.best is not None
    assert found.best.work == 1
    assert found.exact
    choice = MethodChoice("first_block_cache")
    looked, whole = found.results[0].on(1), found.results[0]
    assert list(verdict.notes(choice, looked, 2)) == [
        "threshold=0.05: no step was skipped, on 1 of 2 prompts"  # what it does on the other is not known
    ]
    assert list(verdict.notes(choice, whole, 2)) == [
        "threshold=0.05: no step was skipped, on 2 prompts: this setting does nothing"
    ]
    everything = World([i / 100 for i in range(1, 20)], [0.0] * 19, [1.0, 1.0])
    found = search(THRESHOLD, 0.05, everything.measure, 2, Floor(0.9, 0.8))
    assert found.beyond is None
    assert found.best is not None
    assert list(verdict.notes(choice, found.best, 2)) == [
        f"threshold={found.best.value:.6g}: all steps skipped but the first, on 2 prompts"
    ]
    kept = f"the floor is kept on 2 prompts up to threshold={found.best.value:.6g}"
    assert verdict.limit(choice, found, 2) == f"{kept}; greater ones do the same"


def test_no_value_keeps_the_floor() -> None:
    world = World([0.0], [0.5], [1.0, 1.0])
    found = search(THRESHOLD, 0.05, world.measure, 2, Floor(0.9, 0.8))
    assert found.best is None
    assert verdict.limit(MethodChoice("first_block_cache"), found, 2) == (
        "no value of threshold keeps the floor: with 0 worst SSIM 0.5000 is below 0.8"
    )


@pytest.mark.parametrize("most", range(1, 21))
@pytest.mark.parametrize("start", [1, 5, 20])
def test_whole_numbers_are_searched_exactly(most: int, start: int) -> None:
    asked: list[float] = []

    def measure(value: float, count: int) -> list[Seen]:
        asked.append(value)
        quality = 1.0 if value <= most else 0.5
        return [Seen(quality, 1 / value, 20, 1, str(value), value, value)] * count

    found = search(INTERVAL, start, measure, 1, Floor(0.9, 0.8))
    assert found.best is not None
    assert found.best.value == most
    assert len(asked) == len(set(asked)) <= 10
    assert found.exact == (most < 20)


def test_a_value_is_given_up_as_soon_as_it_cannot_keep_the_floor() -> None:
    counts: list[int] = []

    def measure(value: float, count: int) -> list[Seen]:
        counts.append(count)
        return [Seen(0.7, 0.5, 20, 10, "x", value, value)] * count

    result = judge(0.1, measure, 100, Floor(0.95, 0.8))
    assert (counts, result.kept) == ([10], False)
    assert result.reason == "worst SSIM 0.7000 is below 0.8"
    counts.clear()
    result = judge(0.1, measure, 100, Floor(0.95, 0.5))
    assert (counts, result.reason) == ([10], "mean SSIM 0.7000 is below 0.95")
    counts.clear()
    assert judge(0.1, measure, 100, Floor(0.95, 0.5), whole=True).reason
    assert counts == [100]


def test_the_mean_is_given_up_by_its_upper_bound_or_by_a_test() -> None:
    assert missed([0.95, 0.85], 4, Floor(0.97, 0.5)) == "mean SSIM 0.9000 is below 0.97"  # at most 0.95
    assert missed([0.95, 0.85], 4, Floor(0.94, 0.5)) == ""
    assert missed([0.90, 0.91, 0.89, 0.90], 100, Floor(0.95, 0.5)) != ""  # significantly
    assert missed([1.0, 0.8, 1.0, 0.9], 100, Floor(0.95, 0.5)) == ""


def test_a_dial_that_hits_the_ends_of_its_range() -> None:
    narrow = Parameter("ratio", "float", 0.0, 0.75, 0.5, "")

    def measure(value: float, count: int) -> list[Seen]:
        return [Seen(1 - value / 10, 1.0, 20, 0, "x", value, value)] * count

    found: DialSearch = search(narrow, 0.5, measure, 2, Floor(0.9, 0.8))
    assert isinstance(found.best, DialResult)
    assert found.best.value == 0.75
    assert found.beyond is None
    assert verdict.limit(MethodChoice("tome"), found, 2).endswith("ratio=0.75, the greatest that there is")
    (line,) = verdict.notes(MethodChoice("tome"), found.best, 2)
    assert line.endswith("no call was skipped; the method makes the calls themselves cheaper")


def test_a_place_that_is_known_exactly_is_named_once() -> None:
    world = World([0.05, 0.12345678, 0.3], [0.01, 0.4, 0.1], [1.0, 1.0])
    found = search(THRESHOLD, 0.05, world.measure, 2, Floor(0.9, 0.8))
    line = verdict.limit(MethodChoice("first_block_cache"), found, 2)
    assert line == "cliff at threshold 0.1235: mean SSIM 0.9900 to 0.5900 on 1 of 2 prompts"


def test_an_image_of_another_batch_is_not_something_that_the_setting_does() -> None:
    off = DialResult(1, (Seen(0.99999, 1.0, 20, 0, "x", 1, 1),), True)
    (line,) = verdict.notes(MethodChoice("taylorseer", {"cache_interval": 1}), off, 9)
    assert line == "cache_interval=1: no step was skipped, whatever the prompt: this setting does nothing"
    (line,) = verdict.notes(MethodChoice("tome"), off, 9)
    assert line == "ratio=1: no image changed, on 1 of 9 prompts"
    (line,) = verdict.notes(MethodChoice("tome"), off, 1)
    assert line == "ratio=1: no image changed, on 1 prompt: this setting does nothing"


def test_the_answer_about_a_present_setting() -> None:
    mine, other = (MethodChoice("taylorseer", {"cache_interval": value}) for value in (3, 4))
    result = DialResult(3, (Seen(0.95, 0.5, 20, 10, "x", 3, 3),), True)
    line = verdict.about(mine, result, 2, others=True)
    assert line.startswith(
        "TaylorSeer cache_interval=3 max_order=1: mean SSIM 0.9500, worst 0.9500 on 1 of 2 "
    )
    begin = (
        "your present setting: TaylorSeer cache_interval=3: mean SSIM 0.9500, worst 0.9500 on 1 prompt, "
        "50% of the calls reuse, 50% of the work, 2.00 s an image, "
    )
    as_much = Floor(0.95, 0.95)
    assert verdict.answer(mine, result, {mine: 2.0, other: 1.5}, 3.0, other, as_much) == (
        f"{begin}3.00 s without it; the best at equal quality: TaylorSeer cache_interval=4 "
        "disable_cache_before_step=3 max_order=1, 1.50 s"
    )
    nothing = "no other setting that keeps as much is faster"
    line = verdict.answer(mine, result, {mine: 2.0}, 3.0, mine, as_much)
    assert line == f"{begin}3.00 s without it; {nothing}"
    slow = f"{begin}1.00 s without it: slower than off; {nothing}"
    assert verdict.answer(mine, result, {mine: 2.0, other: 2.5}, 1.0, None, as_much) == slow
    # With another floor, or where the present setting skips nothing, it is not equal quality.
    line = verdict.answer(mine, result, {mine: 2.0, other: 1.5}, 3.0, other, Floor(0.9, 0.8))
    assert "; the best that keeps mean SSIM 0.9 and worst 0.8: TaylorSeer cache_interval=4 " in line
    line = verdict.answer(mine, result, {mine: 2.0}, 3.0, None, Floor(0.9, 0.8))
    assert line.endswith("; no other setting that keeps mean SSIM 0.9 and worst 0.8 is faster")
    assert verdict.speed("PAB", 2.0, 2.0).endswith(": slower than off")


def test_a_value_that_skips_the_same_calls_loses_as_much() -> None:
    """From 18 on nothing more is skipped: what 50 lost on all prompts is known of 32, though 16 is nearer."""
    raced: list[float] = []

    def measure(value: float, count: int) -> list[Seen]:
        level = min(value, 18)
        lost = [0.02 if level < 18 else 0.03, *[0.01 if level < 18 else 0.09] * 9]
        if count == 10:
            raced.append(value)
        return [Seen(1 - one, 1 - level / 50, 20, 1, str(level), value, value) for one in lost[:count]]

    found = search(Parameter("range", "int", 1, 50, 2), 2, measure, 10, Floor(0.95, 0.5))
    assert found.best is not None
    assert found.best.value == 17
    assert len([value for value in raced if value >= 18]) == 1
