"""What was found of a method, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.method import shown
from ecdiff_tune.methods.dial import DialSearch
from ecdiff_tune.methods.seen import SAME, DialResult, does_nothing

CLIFF = 0.05
"""Mean SSIM lost from one pattern to the next that is called a cliff."""


def about(choice: MethodChoice, result: DialResult) -> str:
    """One setting: what it skips, and what that costs.

    Args:
        choice: with the value of the result.
    """
    line = (
        f"{choice.method.label} {_setting(choice, result)}: mean SSIM {result.quality:.4f}, "
        f"worst {result.worst:.4f} on {len(result.seen)} prompts, {result.reused:.0%} of the calls reuse, "
        f"{result.work:.0%} of the work"
    )
    return f"{line}{'' if result.kept else f' ({result.reason})'}"


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


def notes(choice: MethodChoice, result: DialResult) -> Iterator[str]:
    """What a person would not expect of a setting."""
    dial = _setting(choice, result)
    if does_nothing(choice.method.parameter(choice.method.dial), result):
        yield f"{dial}: no step was skipped: this setting does nothing"
    elif all(one.reused == 0 for one in result.seen):
        yield f"{dial}: no call was skipped; the method makes the calls themselves cheaper"
    elif all(one.reused >= one.calls - 1 for one in result.seen):
        yield f"{dial}: all steps skipped, but the first"


def limit(choice: MethodChoice, found: DialSearch) -> str:
    """Where the quality is lost; empty where that was not reached."""
    best, beyond, dial = found.best, found.beyond, choice.method.dial
    if best is None:
        return f"no value of {dial} keeps the floor" if beyond is not None else ""
    if beyond is None:
        return f"the floor is kept up to {dial}={best.value:.6g}, beyond which nothing more was tried"
    good, bad = f"{found.good:.4g}", f"{found.bad:.4g}"
    between = f"at {dial} {bad}" if good == bad else f"between {dial} {good} and {bad}"
    shared = min(len(best.seen), len(beyond.seen))
    before, after = best.on(shared).quality, beyond.on(shared).quality
    if before - after > CLIFF:
        return f"cliff {between}: mean SSIM {before:.4f} to {after:.4f}"
    return f"limit {between}: {beyond.reason}"


def answer(
    present: MethodChoice,
    result: DialResult,
    seconds: Mapping[MethodChoice, float],
    off: float,
    best: MethodChoice | None,
) -> str:
    """What a person's present setting is worth, and what would be better.

    Args:
        result: of the present setting.
        seconds, off: of an image with each choice, and without a method.
        best: the fastest that keeps as much; None where there is none.
    """
    mine = seconds[present]
    line = f"{about(present, result)}, {mine:.2f} s an image, {off:.2f} s without it"
    if best is None or best == present or seconds[best] >= mine:
        better = "no other setting that keeps as much is faster"
    else:
        better = f"the best at equal quality: {best.text}, {seconds[best]:.2f} s"
    slower = ": slower than off" * (mine >= off)
    return f"your present setting: {line}{slower}; {better}"


def speed(label: str, seconds: float, off: float) -> str:
    """Measured side by side.

    >>> speed("PAB", 2.0, 1.6)
    'PAB: 2.00 s an image, 1.60 s without it: slower than off'
    """
    line = f"{label}: {seconds:.2f} s an image, {off:.2f} s without it"
    return f"{line}: {'slower than off' if seconds >= off else f'{off / seconds:.2f} times as fast'}"
