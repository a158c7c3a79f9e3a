"""What the caches of diffusers share: their hooks are put on, reset and taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ecdiff_core.methods.method import Reset, Target
from ecdiff_core.methods.model_hooks import added_hooks, state_managers


@contextmanager
def switched_on(
    target: Target, config: Any, apply: Callable[[nn.Module, Any], object], to: nn.Module | None = None
) -> Iterator[Reset]:
    """A cache of diffusers in a model, with or without a cache mixin.

    Args:
        config: of diffusers.
        apply: diffusers' function that puts the cache's hooks on.
        to: a module that holds some blocks of the model alone; None is the model.
    """
    model: Any = target.model
    with added_hooks(model, lambda: apply(to or model, config)) as hooks:
        target.follower.managers = state_managers(hooks)
        if hasattr(model, "enable_cache"):  # so that diffusers refuses a second one
            model._cache_config = config

        def reset() -> None:
            for (module, _), hook in hooks.items():
                hook.reset_state(module)

        try:
            yield reset
        finally:
            target.follower.managers = []
            vars(model).pop("_cache_config", None)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks that diffusers' caches find by the names of their lists."""
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS

    return [
        block
        for name, child in model.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(child, nn.ModuleList)
        for block in child
    ]


def unknown_block(blocks: list[nn.Module]) -> str | None:
    """Why diffusers cannot tell what these blocks take and return; None where it can."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    for block in blocks:
        try:
            TransformerBlockRegistry.get(type(block))
        except ValueError:
            return f"diffusers does not know its blocks ({type(block).__name__})"
    return None


def too_few_steps(num_steps: int, warm_up: int) -> str | None:
    """Why nothing can be skipped; None where something can."""
    return None if num_steps > warm_up else f"{num_steps} steps end within its warm-up of {warm_up}"
