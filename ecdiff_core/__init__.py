"""EC-Diff inference: a cloud and an edge diffusion model sharing one generation (arXiv 2507.11980)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdiff_core.config import PairSpec, Sampling, TunedConfig
    from ecdiff_core.errors import ECDiffError
    from ecdiff_core.hook import apply_ecdiff, apply_tuned, remove_ecdiff, remove_tuned
    from ecdiff_core.methods.choice import MethodChoice
    from ecdiff_core.models.memory import Memory
    from ecdiff_core.models.pair_spec import ModelRef
    from ecdiff_core.output import ECDiffOutput
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.sampling.params import ECDiffParams
    from ecdiff_core.sampling.plan import Action, Plan
    from ecdiff_core.serving.client import RemoteCloud

__version__ = "0.1.0"

_HOME = {
    "ECDiffError": "errors",
    "apply_ecdiff": "hook",
    "apply_tuned": "hook",
    "remove_ecdiff": "hook",
    "remove_tuned": "hook",
    "MethodChoice": "methods.choice",
    "Memory": "models.memory",
    "ECDiffParams": "sampling.params",
    "ECDiffOutput": "output",
    "ECDiffPipeline": "pipeline",
    "Action": "sampling.plan",
    "Plan": "sampling.plan",
    "ModelRef": "models.pair_spec",
    "PairSpec": "models.pair_spec",
    "Sampling": "config",
    "TunedConfig": "config",
    "RemoteCloud": "serving.client",
}
"""Where each public name lives; imported when first used, since torch and diffusers take seconds."""

__all__ = [
    "Action",
    "ECDiffError",
    "ECDiffOutput",
    "ECDiffParams",
    "ECDiffPipeline",
    "Memory",
    "MethodChoice",
    "ModelRef",
    "PairSpec",
    "Plan",
    "RemoteCloud",
    "Sampling",
    "TunedConfig",
    "apply_ecdiff",
    "apply_tuned",
    "remove_ecdiff",
    "remove_tuned",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
