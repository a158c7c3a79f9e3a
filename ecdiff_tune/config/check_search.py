"""Settings of the search against what is true of it."""

from __future__ import annotations

from collections.abc import Sequence

from ecdiff_tune.config.groups import AUTO
from ecdiff_tune.config.setting import SettingsError, check_distinct
from ecdiff_tune.config.settings import Settings
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.options import check_installed
from ecdiff_tune.search.spaces import LEAST_CALLS
from ecdiff_tune.search.specs import LIMITS
from ecdiff_tune.study.spec import PLACED


def check_search(settings: Settings) -> None:
    """That what is set has an effect with the search."""
    name, search = settings.search.name, settings.search
    settings.search_options()
    kind = settings.kind
    if kind.is_optuna:
        check_installed(search.sampler)
    for limit in LIMITS:
        if getattr(search, limit) is not None and limit not in kind.limits:
            raise _not_for(
                f"search.{limit}", name, [one for one in SEARCHES if limit in SEARCHES[one].limits]
            )
    if settings.latency == "wallclock" and not kind.by_clock:
        by_clock = [one for one in SEARCHES if SEARCHES[one].by_clock]
        raise SettingsError(
            f"search={name} must know the seconds of a config before it runs, which latency=wallclock does "
            f"not: set latency=profile, or search={' or search='.join(by_clock)}.",
            key="latency",
            got=settings.latency,
        )
    if settings.reference == PLACED and (kind.is_optuna or settings.latency == "wallclock"):
        whom = "search=optuna" if kind.is_optuna else "latency=wallclock"
        raise SettingsError(
            key="reference",
            got=PLACED,
            expected=f"full or auto with {whom}",
            advice="Leave it out.",
        )
    if search.handoff is not None and (kind.places or kind.walks):
        raise SettingsError(
            key="search.handoff",
            got=list(search.handoff),
            expected=f"null with search={name}",
            advice="sampling.handoff=exact hands over at s itself; search=joint compares both.",
        )
    if settings.calibration.until is not None:
        _check_until(settings)
    if search.extend and not kind.extends:
        raise _not_for("search.extend", name, [one for one in SEARCHES if SEARCHES[one].extends])
    joint = "set search.joint=true" if kind.at_once else "choose another search"
    for setting, idle, instead in (
        ("params.p", settings.params.p != AUTO and kind.places, "choose another search"),
        ("search.p", search.p is not None and kind.places, "choose another search"),
        ("search.p", search.p is not None and not search.joint, joint),
        ("search.storage", search.storage is not None and not kind.is_optuna, "choose search=optuna"),
    ):
        if idle:
            line = f"{setting} has no effect with search={name}."
            raise SettingsError(line, key=setting, got=name, advice=f"Leave it out, or {instead}.")
    if kind.places:
        _check_cloud_calls(settings)
        _check_edge_calls(settings)
    elif search.crossings != 1:
        raise _not_for("search.crossings", name, [one for one in SEARCHES if SEARCHES[one].places])
    for setting in ("edge_k", "residual"):
        values = list(getattr(search, setting))
        if kind.walks and len(values) > 1:
            raise SettingsError(
                key=f"search.{setting}",
                got=values,
                expected=f"one value with search={name}, which walks over k, alpha and s alone",
                advice="Give one, or choose search=joint.",
            )
    if search.joint and not kind.at_once:
        line = f"search={name} goes stage by stage: set search.joint=false, or another search."
        raise SettingsError(line, key="search.joint", got=True, expected="false")
    if not search.joint and not kind.in_stages:
        line = f"search={name} looks at everything at once: leave search.joint=true."
        raise SettingsError(line, key="search.joint", got=False, expected="true")


def _check_until(settings: Settings) -> None:
    """That a race can end before all prompts."""
    search, key = settings.search, "calibration.until"
    if not settings.kind.ends_early:
        raise _not_for(key, search.name, [one for one in SEARCHES if SEARCHES[one].ends_early])
    if not search.joint:
        raise SettingsError(key="search.joint", got=False, expected=f"true with {key}")
    if search.min_quality is not None:
        expected, advice = f"null with {key}", "It must hold on all prompts: leave out one of them."
        raise SettingsError(
            key="search.min_quality", got=search.min_quality, expected=expected, advice=advice
        )
    if not search.error_rate:
        expected, advice = f"> 0 with {key}", "A race that may not err goes on to the last prompt."
        raise SettingsError(key="search.error_rate", got=0, expected=expected, advice=advice)


def _not_for(setting: str, name: str, heeding: Sequence[str]) -> SettingsError:
    line = f"{setting} is for search={' and search='.join(heeding)}; not for search={name}."
    return SettingsError(line, key=setting, got=name, expected=list(heeding))


def _check_edge_calls(settings: Settings) -> None:
    search, most = settings.search, settings.num_steps - max(settings.cloud_calls)
    if search.crossings not in (None, 1):
        raise SettingsError(key="search.crossings", got=search.crossings, expected="1 or null")
    if list(search.edge_k) != [0]:
        raise SettingsError(
            key="search.edge_k",
            got=list(search.edge_k),
            expected="[0] with search=schedule",
            advice="Give search.edge_calls in its place.",
        )
    if search.edge_calls is None:
        if search.crossings is None:
            raise SettingsError(key="search.edge_calls", expected="with search.crossings=null")
        return
    check_distinct("search.edge_calls", search.edge_calls)
    least = 2 if max(search.residual) else 1
    if not all(least <= one <= most for one in search.edge_calls):
        why = ", those for the residual counted" if least > 1 else ""
        expected = f"within {least} … {most} (T without the cloud calls{why})"
        raise SettingsError(key="search.edge_calls", got=list(search.edge_calls), expected=expected)


def _check_cloud_calls(settings: Settings) -> None:
    calls, most = settings.cloud_calls, max(settings.s_values, default=0)
    lowest = 2 if settings.search.edge_calls else LEAST_CALLS
    if most < LEAST_CALLS:
        raise SettingsError(
            f"search={settings.search.name} places at least {LEAST_CALLS} cloud calls, got {most} steps "
            "on the cloud side at most. Raise sampling.num_inference_steps or search.s.",
            key="search.s",
            got=most,
            expected=f">= {LEAST_CALLS}",
        )
    check_distinct("search.cloud_calls", calls)
    if not all(lowest <= one <= most for one in calls):
        expected = f"within {lowest} … {most} (the largest s)"
        raise SettingsError(key="search.cloud_calls", got=list(calls), expected=expected)
