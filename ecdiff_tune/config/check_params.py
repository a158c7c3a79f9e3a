"""Params by hand, and the values that are searched."""

from __future__ import annotations

from dataclasses import replace

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import LEAST_P
from ecdiff_core.sampling.plan import plan
from ecdiff_tune.config.error import SettingsError
from ecdiff_tune.config.groups import AUTO
from ecdiff_tune.config.schema import Settings


def check_params(settings: Settings) -> None:
    """Refuse params by hand that contradict themselves, or that no plan can be made of.

    Raises:
        SettingsError, ParamsError: with what was got.
    """
    p, k, alpha = settings.params.p, settings.params.k, settings.params.alpha
    if p != AUTO and (isinstance(p, bool) or not isinstance(p, int) or p < 0):
        raise SettingsError(f"Expected params.p to be a whole number >= 0 or auto, got {p!r}.")
    schedule = settings.params.schedule
    if schedule is not None and (p != AUTO or k is not None):
        raise SettingsError("Expected params.p and params.k, or params.schedule in their place, got both.")
    if schedule is not None and alpha is None:
        raise SettingsError("Expected params.alpha with params.schedule: give params.alpha=0.5 or another.")
    if schedule is None and (k is None) != (alpha is None):
        raise SettingsError("Expected both params.k and params.alpha, or neither (then stage1.yaml is read).")
    if k is not None and k >= settings.num_steps:
        raise ParamsError(f"Expected params.k within 0 … {settings.num_steps - 1}, got {k}.")
    params = settings.params_by_hand(p if isinstance(p, int) else LEAST_P)
    if params is not None:
        sampling = settings.core_sampling()
        plan(params, settings.num_steps, sampling.handoff, get_estimator(sampling.estimator))


def check_grids(settings: Settings) -> None:
    """Refuse empty grids, values given twice, and values out of range.

    Raises:
        SettingsError, ParamsError: with what was got.
    """
    steps, search = settings.num_steps, settings.search
    if steps < LEAST_P:
        raise ParamsError(
            f"Expected sampling.num_inference_steps >= {LEAST_P} (eq. 3 needs two noises), got {steps}."
        )
    for estimator in settings.estimators:
        get_estimator(estimator)
    for adapter in settings.handoff_adapters:
        replace(settings.core_sampling(), handoff_adapter=adapter)  # refuses unknown names
    for name, values in (
        ("p", [0] if search.p is None else search.p),
        ("k", search.k),
        ("alpha", search.alpha),
        ("s", settings.s_values),
        ("estimator", settings.estimators),
        ("handoff_adapter", settings.handoff_adapters),
    ):
        if not values:
            raise SettingsError(f"Expected search.{name} to hold at least one value, got none.")
        if len(set(values)) < len(values):
            raise SettingsError(f"Expected the values of search.{name} to differ, got {list(values)}.")
    if min(search.k) < 0 or max(search.k) >= steps:
        raise ParamsError(f"Expected search.k within 0 … {steps - 1}, got {search.k}.")
    if not all(0 < alpha <= 1 for alpha in search.alpha):  # also where one is nan
        raise ParamsError(f"Expected search.alpha within 0 < alpha <= 1, got {search.alpha}.")
    if min(settings.s_values) < 0 or max(settings.s_values) > steps:
        raise ParamsError(
            f"Expected search.s within 0 … {steps} (sampling.num_inference_steps), "
            f"got {list(settings.s_values)}."
        )
    if not 0 <= settings.earliest_s < steps:
        raise ParamsError(
            f"Expected objective.earliest_s within 0 … {steps - 1} (s' of eq. 11), got {settings.earliest_s}."
        )
    p = settings.params.p
    if p == AUTO and min(settings.s_values) < LEAST_P:
        raise ParamsError(
            f"Expected every s >= {LEAST_P}, the least p that params.p=auto chooses, "
            f"got s from {min(settings.s_values)}."
        )
    if isinstance(p, int) and p > min(settings.s_values):
        raise ParamsError(
            f"Expected params.p <= every s, got p={p} with s from {min(settings.s_values)}. "
            "Lower params.p or raise search.s."
        )
    if isinstance(p, int) and p < LEAST_P and max(search.k) >= 1:
        raise ParamsError(
            f"Expected params.p >= {LEAST_P} when k >= 1 is searched (eq. 3 needs two noises), got p={p}."
        )
