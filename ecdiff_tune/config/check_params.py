"""Params by hand, and the values that are searched."""

from __future__ import annotations

from dataclasses import replace

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import LEAST_P
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.config.groups import AUTO
from ecdiff_tune.config.setting import SettingsError, check_distinct
from ecdiff_tune.config.settings import Settings


def check_params(settings: Settings) -> None:
    """Refuse params by hand that contradict themselves, or that no plan can be made of.

    Raises:
        SettingsError, ParamsError: with what was got.
    """
    p, k, alpha = settings.params.p, settings.params.k, settings.params.alpha
    schedule = settings.params.schedule
    if schedule is not None and (p != AUTO or k is not None):
        raise SettingsError(
            key="params.p and params.k", got="both", expected="or params.schedule in their place"
        )
    if schedule is not None and alpha is None:
        advice = "Give params.alpha=0.5 or another."
        raise SettingsError(key="params.alpha", expected="with params.schedule", advice=advice)
    if schedule is None and (k is None) != (alpha is None):
        expected = "or neither (then stage1.yaml is read)"
        raise SettingsError(
            key="both params.k and params.alpha", got={"k": k, "alpha": alpha}, expected=expected
        )
    most = max(settings.num_steps, LEAST_P)  # fewer steps than that are refused as such
    for name in ("edge_first", "edge_last"):
        if (real := getattr(settings.params, name)) > most:
            raise ParamsError(key=f"params.{name}", got=real, expected=f"<= {most}, all steps")
    for key, value in (("params.k", k), ("params.edge_k", settings.params.edge_k)):
        if value is not None and value >= settings.num_steps:
            raise ParamsError(key=key, got=value, expected=f"within 0 … {settings.num_steps - 1}")
    if settings.params.edge_schedule is not None:
        _check_edge_schedule(settings)
    for name in ("edge_k", "residual"):
        check_distinct(f"search.{name}", getattr(settings.search, name))
    params = settings.params_by_hand(p if isinstance(p, int) else LEAST_P)
    if params is not None:
        sampling = settings.core_sampling()
        plan(params, settings.num_steps, sampling.handoff, get_estimator(sampling.estimator))


def _check_edge_schedule(settings: Settings) -> None:
    """The lists say who does which step: nothing else may say it too."""
    if settings.params.schedule is None:
        advice = "Give params.schedule=[0,1,6], the steps with cloud calls."
        raise SettingsError(key="params.schedule", expected="with params.edge_schedule", advice=advice)
    if settings.search.s is not None:
        line = (
            "search.s has no effect with params.edge_schedule, whose lists say who does what: leave it out."
        )
        raise SettingsError(line, key="search.s", got=list(settings.search.s), expected="none")


def check_grids(settings: Settings) -> None:
    """Refuse empty grids, values given twice, and values out of range.

    Raises:
        SettingsError, ParamsError: with what was got.
    """
    steps, search, s_values, p = settings.num_steps, settings.search, settings.s_values, settings.params.p
    if steps < LEAST_P:
        expected = f">= {LEAST_P} (eq. 3 needs two noises)"
        raise ParamsError(key="sampling.num_inference_steps", got=steps, expected=expected)
    for adapter in settings.handoff_adapters:
        replace(settings.core_sampling(), handoff_adapter=adapter)  # refuses those that do not fit the rest
    for name, values in (
        ("p", [0] if search.p is None else search.p),
        ("k", search.k),
        ("alpha", search.alpha),
        ("s", s_values),
        ("estimator", settings.estimators),
        ("handoff_adapter", settings.handoff_adapters),
        ("handoff", settings.handoffs),
    ):
        check_distinct(f"search.{name}", values)
    fills = all(get_estimator(one).fills_with_edge for one in settings.estimators)
    for name, tried in (("edge_k", settings.edge_ks), ("residual", settings.residuals)):
        if fills and 0 not in tried and not settings.kind.places:
            expected = "to hold 0 with the estimator edge, which has a residual of its own"
            by_hand = getattr(settings.params, name) is not None
            key = f"{'params' if by_hand else 'search'}.{name}"
            raise SettingsError(key=key, got=list(tried), expected=expected)
    earliest = [settings.earliest_s]
    if not all(0 < alpha <= 1 for alpha in search.alpha):  # also where one is nan
        raise ParamsError(key="search.alpha", got=search.alpha, expected="within 0 < alpha <= 1")
    for key, numbers, most, why in (
        ("search.k", search.k, steps - 1, ""),
        ("search.edge_k", search.edge_k, steps - 1, ""),
        ("search.s", s_values, steps, " (sampling.num_inference_steps)"),
        ("objective.earliest_s", earliest, steps - 1, " (s' of eq. 11)"),
    ):
        if min(numbers) < 0 or max(numbers) > most:
            got = earliest[0] if numbers is earliest else list(numbers)
            raise ParamsError(key=key, got=got, expected=f"within 0 … {most}{why}")
    if p == AUTO and min(s_values) < LEAST_P:
        expected = f">= {LEAST_P}, the least p that params.p=auto chooses"
        raise ParamsError(key="every s", got=min(s_values), expected=expected)
    if isinstance(p, int) and p > min(s_values):
        raise ParamsError(
            key="params.p",
            got={"p": p, "s": min(s_values)},
            expected="<= every s",
            advice="Lower params.p or raise search.s.",
        )
    if isinstance(p, int) and p < LEAST_P and max(search.k) >= 1:
        expected = f">= {LEAST_P} when k >= 1 is searched (eq. 3 needs two noises)"
        raise ParamsError(key="params.p", got=p, expected=expected)
