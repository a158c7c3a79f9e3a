"""What was found of a method, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ecdiff_core.io.text import counted
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.method import shown
from ecdiff_tune.methods.dial import DialSearch
from ecdiff_tune.methods.seen import SAME, DialResult, Floor, does_nothing
from ecdiff_tune.search.paired import TIE

CLIFF = 0.05
"""Mean SSIM lost from one pattern to the next that is called a cliff."""


def about(choice: MethodChoice, result: DialResult, prompts: int, others: bool = False) -> str:
    """One setting: what it skips, and what that costs.

    Args:
        choice: with the value of the result.
        prompts: that are tuned on.
        others: name what else was tried in combinations too.
    """
    tried = [one.name for one in choice.method.parameters if others and one.grid]
    beside = "".join(f" {name}={shown(choice.values[name])}" for name in tried if name != choice.method.dial)
    line = (
        f"{choice.method.label} {_setting(choice, result)}{beside}: mean SSIM {result.quality:.4f}, "
        f"worst {result.worst:.4f} {_where(result, prompts)}, {result.reused:.0%} of the calls reuse, "
        f"{result.work:.0%} of the work"
    )
    return f"{line}{'' if result.kept else f' ({result.reason})'}"


def _where(result: DialResult, prompts: int) -> str:
    """On how many prompts something was seen."""
    seen = len(result.seen)
    return f"on {seen} of {prompts} prompts" if seen < prompts else f"on {counted(prompts, 'prompt')}"


def _setting(choice: MethodChoice, result: DialResult) -> str:
    """What of the values is looked at: the dial, or what stands in its place."""
    whole = choice.method.whole
    given = choice.values.get(whole)
    return f"{whole}={shown(given)}" if given else f"{choice.method.dial}={result.value:.6g}"


def beaten(name: str, present: DialResult, preset: DialResult) -> str:
    """Whether a preset keeps more than the present setting with no more computed; empty where it does not."""
    if preset.quality <= present.quality or preset.work > present.work + SAME:
        return ""
    return (
        f"your present setting does worse than {name}, which computes no more: "
        f"mean SSIM {present.quality:.4f} against {preset.quality:.4f}"
    )


def notes(choice: MethodChoice, result: DialResult, prompts: int) -> Iterator[str]:
    """What a person would not expect of a setting: of the setting itself where it holds on every prompt,
    else of the prompts that it was seen on.

    Args:
        prompts: that are tuned on.
    """
    setting, method = _setting(choice, result), choice.method
    dial, where = method.parameter(method.dial), _where(result, prompts)
    by_count = dial.shows and not method.adaptive
    if does_nothing(dial, result):
        what = "no step was skipped" if dial.shows else "no image changed"
        holds = by_count or len(result.seen) >= prompts
        seen = "whatever the prompt" if by_count else where
        yield f"{setting}: {what}, {seen}{': this setting does nothing' * holds}"
    elif all(one.reused == 0 for one in result.seen):
        yield f"{setting}: no call was skipped; the method makes the calls themselves cheaper"
    elif all(one.reused >= one.calls - 1 for one in result.seen):
        yield f"{setting}: all steps skipped but the first, {'whatever the prompt' if by_count else where}"


def limit(choice: MethodChoice, found: DialSearch, prompts: int) -> str:
    """Where the quality is lost; empty where nothing was looked at.

    Args:
        prompts: that are tuned on.
    """
    best, beyond, dial = found.best, found.beyond, choice.method.dial
    if best is None and beyond is None:
        return ""
    if best is None:
        assert beyond is not None
        return f"no value of {dial} keeps the floor: with {beyond.value:.6g} {beyond.reason}"
    if beyond is None:
        kept = f"the floor is kept {_where(best, prompts)} up to {dial}={best.value:.6g}"
        if best.value >= found.high:
            return f"{kept}, the greatest that there is"
        nothing_more = all(math.isinf(one.high) for one in best.seen)
        return f"{kept}; {'greater ones do the same' if nothing_more else 'beyond it nothing was tried'}"
    good, bad = f"{found.good:.4g}", f"{found.bad:.4g}"
    between = f"at {dial} {bad}" if good == bad else f"between {dial} {good} and {bad}"
    shared = min(len(best.seen), len(beyond.seen))
    before, after = best.on(shared).quality, beyond.on(shared).quality
    if before - after > CLIFF:
        where = _where(best.on(shared), prompts)
        return f"cliff {between}: mean SSIM {before:.4f} to {after:.4f} {where}"
    return f"limit {between}: {beyond.reason}"


def answer(
    present: MethodChoice,
    result: DialResult,
    seconds: Mapping[MethodChoice, float],
    off: float,
    best: MethodChoice | None,
    floor: Floor,
) -> str:
    """What a person's present setting is worth, and what would be better.

    Args:
        result: of the present setting, on all prompts.
        seconds, off: of an image with each choice, and without a method.
        best: the fastest that keeps the floor; None where there is none.
        floor: what the others had to keep.
    """
    mine = seconds[present]
    line = f"{about(present, result, len(result.seen))}, {mine:.2f} s an image, {off:.2f} s without it"
    as_much = floor.mean >= result.quality - TIE and floor.worst >= result.worst - TIE
    if best is None or best == present or seconds[best] >= mine:
        better = f"no other setting that keeps {'as much' if as_much else floor} is faster"
    else:
        which = "at equal quality" if as_much else f"that keeps {floor}"
        better = f"the best {which}: {best.text}, {seconds[best]:.2f} s"
    slower = ": slower than off" * (mine >= off)
    return f"your present setting: {line}{slower}; {better}"


def held_out(result: DialResult, interval: Sequence[float], floor: Floor) -> Iterator[str]:
    """A winner on prompts that it was not tuned on, and whether it keeps there what was asked for.

    Args:
        interval: of 95 % around the mean.
        floor: that was asked for.
    """
    mean = "{:.4f} ({:.4f} … {:.4f})".format(result.quality, *interval)
    yield f"held out: mean SSIM {mean}, worst {result.worst:.4f} on {counted(len(result.seen), 'prompt')}"
    pairs = (("mean", result.quality, floor.mean), ("worst", result.worst, floor.worst))
    if lacking := " and ".join(f"{name} {least:.4g}" for name, found, least in pairs if found < least - TIE):
        yield (
            f"note: on held-out prompts the floor is not kept ({lacking}): the search stops right at it. "
            "Tune on more prompts, or ask for more: acceleration.min_quality, acceleration.min_worst."
        )


def speed(label: str, seconds: float, off: float) -> str:
    """Measured side by side.

    >>> speed("PAB", 2.0, 1.6)
    'PAB: 2.00 s an image, 1.60 s without it: slower than off'
    """
    line = f"{label}: {seconds:.2f} s an image, {off:.2f} s without it"
    return f"{line}: {'slower than off' if seconds >= off else f'{off / seconds:.2f} times as fast'}"
