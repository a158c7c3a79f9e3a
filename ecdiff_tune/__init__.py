"""The tuner: finds (p, k, alpha, s) of EC-Diff for a pair, a machine and a link."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdiff_tune import searches, testing
    from ecdiff_tune.api import Study, tune

_HOME = {"Study": "api", "tune": "api"}
"""Where each public name lives; imported when first used, since torch and diffusers take seconds."""

_MODULES = ("searches", "testing")

__all__ = ["Study", "searches", "testing", "tune"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
