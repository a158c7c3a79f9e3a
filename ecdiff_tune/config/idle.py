"""Settings that are given and change nothing, with the search or the rest of what is set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ecdiff_tune.config.settings import ECDIFF, Settings
from ecdiff_tune.study.spec import FULL_RUNS, PLACED, WALLCLOCK

_BY_TESTS = ("search.rungs", "search.error_rate", "search.margin")
"""What the tests of a race or a walk go by."""
_Reason = Callable[[Settings], str]
"""Why a setting changes nothing, to go on after "with" or "where"; empty where it does."""


def _whole_walk(settings: Settings) -> str:
    """A walk that takes no decision before all prompts."""
    search = settings.search
    whole = {"latency=wallclock": settings.latency == WALLCLOCK, "search.extend=true": search.extend}
    found = [name for name, is_so in whole.items() if is_so and settings.kind.walks]
    return found[0] if found else ""


def _no_tests(settings: Settings) -> str:
    if settings.search.error_rate == 0:
        return "search.error_rate=0"
    return _whole_walk(settings)


def _no_edge_k(settings: Settings) -> str:
    if any(settings.edge_ks):
        return ""
    by_hand = "search.edge_k=[0]" if settings.params.edge_k is None else "params.edge_k=0"
    cause = f"search={settings.search.name}" if settings.kind.places else by_hand
    return f"{cause}, where every edge step is real anyway"


def _with(is_so: bool, what: str) -> str:
    return what if is_so else ""


REASONS: tuple[tuple[tuple[str, ...], _Reason], ...] = (
    (("search.rungs", "search.error_rate"), _whole_walk),
    (("search.margin",), _no_tests),
    (("params.edge_first", "params.edge_last"), _no_edge_k),
    (
        ("search.handoff",),
        lambda s: _with(
            not s.search.joint and not s.kind.places, "search.joint=false (sampling.handoff goes)"
        ),
    ),
    (("search.k",), lambda s: _with(s.kind.places and bool(s.search.edge_calls), "search.edge_calls")),
    (
        ("search.residual",),
        lambda s: _with(
            s.kind.places and not s.search.edge_calls, "search=schedule without search.edge_calls"
        ),
    ),
    (
        ("reference",),
        lambda s: _with(
            s.reference == PLACED and s.calibration.num_prompts <= FULL_RUNS,
            f"calibration.num_prompts={s.calibration.num_prompts}: the first {FULL_RUNS} have full runs",
        ),
    ),
    (("heldout.fewer_steps",), lambda s: _with(not s.heldout.num_prompts, "heldout.num_prompts=0")),
    (("sharing_gib",), lambda s: _with(s.sharing == "off", "sharing=off")),
    (
        ("objective.earliest_s",),
        lambda s: _with(s.objective.burden != "steps", f"objective.burden={s.objective.burden}"),
    ),
)
"""Settings that others leave without effect, and when."""


def idle(settings: Settings, given: Iterable[str]) -> list[str]:
    """A line about every setting of a search that is given and changes nothing.

    Args:
        settings: checked, of a command that searches.
        given: keys as on a command line, groups among them.
    """
    lines = []
    for key in dict.fromkeys(given):
        reasons = (reason(settings) for keys, reason in REASONS if key in keys)
        if not _is_read(settings, key):
            method = f"method={','.join(settings.methods) or ECDIFF}"
            by_method = settings.methods or key.startswith("acceleration.")
            line = method if by_method else f"search={settings.search.name}"
        else:
            line = next(filter(None, reasons), "")
        if line:
            lines.append(f"note: {key} has no effect with {line}.")
    return lines


def _is_read(settings: Settings, key: str) -> bool:
    """Whether what is tuned goes by a setting of the group ``search`` or ``acceleration``."""
    group, _, name = key.partition(".")
    if group == "acceleration":
        return bool(settings.methods)
    if group != "search":
        return True
    return not settings.methods and (not name or name in settings.kind.reads)
