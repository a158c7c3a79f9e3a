"""Hooks of diffusers on a model's parts: put on, and taken off so that nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import StateManager
from torch import nn

ECDIFF = "ecdiff"
"""Name of ``apply_ecdiff``'s hook, which stays around those of every method."""
REGISTRY = "_diffusers_hook"
"""Where diffusers keeps a module's HookRegistry."""

Place = tuple[nn.Module, str]
"""A module and the name of a hook on it."""


def hooks_on(model: nn.Module) -> dict[Place, ModelHook]:
    """All hooks of a model and its parts."""
    return {
        (module, name): hook
        for module in model.modules()
        if (registry := vars(module).get(REGISTRY)) is not None
        for name, hook in registry.hooks.items()
    }


def remove_hook(module: nn.Module, name: str) -> None:
    """Take a hook off a module, be it the outermost or not.

    Where another hook lies around it that replaces ``forward``, diffusers' own removal drops what that does.
    """
    registry: Any = vars(module)[REGISTRY]
    index = registry._hook_order.index(name)
    mine = registry._fn_refs[index]
    inner = mine.forward if mine.original_forward is None else mine.original_forward
    if index + 1 == len(registry._fn_refs):
        registry._module_ref.forward = inner
    else:
        outer = registry._fn_refs[index + 1]
        slot = "forward" if outer.original_forward is None else "original_forward"
        setattr(outer, slot, inner)
    registry._module_ref = registry.hooks[name].deinitalize_hook(registry._module_ref)
    del registry.hooks[name], registry._hook_order[index], registry._fn_refs[index]


@contextmanager
def without_traces(model: nn.Module) -> Iterator[None]:
    """Afterwards no module has a registry or a ``forward`` of its own that it had not before, unless
    another hook came meanwhile."""
    before = {module: (REGISTRY in vars(module), "forward" in vars(module)) for module in model.modules()}
    try:
        yield
    finally:
        for module, (had_registry, had_forward) in before.items():
            own, registry = vars(module), vars(module).get(REGISTRY)
            if registry is not None:
                registry._child_registries_cache = None
            if registry is not None and registry.hooks:
                continue
            if registry is not None and not had_registry:
                del own[REGISTRY]
            if not had_forward:
                own.pop("forward", None)


@contextmanager
def inside_ecdiff(model: nn.Module) -> Iterator[None]:
    """Hooks that are put on meanwhile lie inside ``apply_ecdiff``'s, which decides whether they are asked."""
    outer = hooks_on(model).get((model, ECDIFF))
    if outer is not None:
        remove_hook(model, ECDIFF)
    try:
        yield
    finally:
        if outer is not None:
            HookRegistry.check_if_exists_or_initialize(model).register_hook(outer, ECDIFF)


@contextmanager
def added_hooks(model: nn.Module, add: Callable[[], object]) -> Iterator[dict[Place, ModelHook]]:
    """The hooks that ``add`` puts on a model; they are taken off at the end, also when ``add`` fails."""
    before = hooks_on(model)
    try:
        add()
        yield {place: hook for place, hook in hooks_on(model).items() if place not in before}
    finally:
        for module, name in hooks_on(model):
            if (module, name) not in before and name != ECDIFF:
                remove_hook(module, name)


def state_managers(hooks: dict[Place, ModelHook]) -> list[StateManager]:
    """Where hooks keep their states by context, each once."""
    found = [value for hook in hooks.values() for value in vars(hook).values()]
    return list({id(one): one for one in found if isinstance(one, StateManager)}.values())
