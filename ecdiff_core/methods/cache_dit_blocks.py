"""The blocks of cache-dit in a transformer, in the places of its own: what its methods here share.

``cache_dit.enable_cache`` itself replaces ``forward``, which drops the hooks around it when it is disabled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from ecdiff_core.errors import ParamsError
from ecdiff_core.methods.diffusers_caches import blocks_of, too_few_steps
from ecdiff_core.methods.method import Reset, Target
from ecdiff_core.methods.model_hooks import added_hooks

SOURCE = "the package cache-dit"
_PIPELINES = {"SD3Transformer2DModel": "StableDiffusion3Pipeline"}
"""cache-dit knows models by how their names begin, and this one by its pipeline's."""


def obstacle(model: nn.Module, num_steps: int) -> str | None:
    """Why cache-dit cannot be used with a model; None where it can."""
    if len(blocks_of(model)) < 2:
        return "it needs two transformer blocks or more"
    if find_spec("cache_dit") is None:
        return "it is not installed (pip install cache-dit)"
    adapter = _adapter(model)
    if adapter is None:
        return f"cache-dit does not know {type(model).__name__}"
    plain = adapter.patch_functor is None and isinstance(adapter.blocks, nn.ModuleList)
    if adapter.has_separate_cfg or not plain:
        return "cache-dit changes more of it than its blocks: use cache_dit.enable_cache"
    return too_few_steps(num_steps, 1)


def _adapter(model: nn.Module) -> Any:
    """What cache-dit knows of a model, which stays as it is."""
    with _quiet():
        from cache_dit.caching import BlockAdapterRegister, FakeDiffusionPipeline

        kind = type(model).__name__
        known = BlockAdapterRegister._adapters.items()
        for name, make in known:
            if _PIPELINES.get(kind, kind).startswith(name):
                return make(FakeDiffusionPipeline(model), skip_post_init=True)
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """cache-dit prints what it finds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _StandIn(ModelHook):
    """Has another list of blocks in a model while it is called.

    Args:
        name: of the model's own.
    """

    def __init__(self, name: str, blocks: nn.ModuleList) -> None:
        super().__init__()
        self._name, self._blocks = name, blocks

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The model's own, with the other list."""
        own = module._modules[self._name]
        module._modules[self._name] = self._blocks
        try:
            return self.fn_ref.original_forward(*args, **kwargs)
        finally:
            module._modules[self._name] = own


@contextmanager
def cached_blocks(target: Target, config: Any, calibrator: Any = None) -> Iterator[Reset]:
    """cache-dit in a model.

    Args:
        config, calibrator: its ``DBCacheConfig`` and ``CalibratorConfig``.

    Raises:
        ParamsError: the model has too few blocks for the config.
    """
    from cache_dit.caching import CachedContextManager, UnifiedBlocks

    model = target.model
    adapter = _adapter(model)
    (name,) = (name for name, child in model.named_children() if child is adapter.blocks)
    most = len(adapter.blocks)
    first, last = config.Fn_compute_blocks, config.Bn_compute_blocks
    if first + last > most:  # cache-dit would apply some of them twice
        raise ParamsError(
            key="method.values",
            got={"Fn_compute_blocks": first, "Bn_compute_blocks": last},
            expected=f"of both together to be at most {most}, the blocks of {type(model).__name__}",
            advice="Give fewer.",
        )
    config.enable_separate_cfg = False  # a call has both halves of guidance
    manager = CachedContextManager("ecdiff", persistent_context=True)

    def reset() -> None:
        manager.reset_context(name, cache_config=config, calibrator_config=calibrator)

    def stand_in() -> None:
        with _quiet():
            blocks = UnifiedBlocks(
                adapter.blocks,
                transformer=model,
                forward_pattern=adapter.forward_pattern,
                cache_prefix=name,
                cache_context=name,
                context_manager=manager,
            )
        hook = _StandIn(name, nn.ModuleList([blocks]))
        HookRegistry.check_if_exists_or_initialize(model).register_hook(hook, "ecdiff_cache_dit")

    reset()
    with added_hooks(model, stand_in):
        yield reset
