"""A method put into a denoiser, and taken out again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from diffusers.hooks import HookRegistry
from torch import nn

from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.methods.follower import Busy, Follower
from ecdiff_core.methods.hits import Hits
from ecdiff_core.methods.method import Method, Target, Values
from ecdiff_core.methods.model_hooks import added_hooks, inside_ecdiff, without_traces
from ecdiff_core.methods.watched import Watched

_OTHERS = {
    "is_cache_enabled": ("a cache of diffusers", "disable_cache()"),
    "_is_cached": ("cache-dit", "cache_dit.disable_cache()"),
}
"""What is left on a model by accelerations that a person switched on: whose, and how it goes off."""
FOLLOWER = "ecdiff_method"
"""Name of the follower's hook."""


class Enabled:
    """A method that is on in a model; ``disable`` leaves the model as it was.

    Args:
        values: complete.
    """

    def __init__(
        self, method: Method, values: Values, follower: Follower, watched: Watched | None, stack: ExitStack
    ) -> None:
        self.method, self.values = method, values
        self._watched = watched
        self._follower, self._stack = follower, stack

    @property
    def hits(self) -> Hits:
        """What ran in the last generation, or in the one under way; empty unless ``counts`` was asked for."""
        return self._follower.hits

    @property
    def interval(self) -> tuple[float, float] | None:
        """Values of the dial, from the first up to the second, with which the last generation would have been
        the same; None where that is not known, or ``counts`` was not asked for."""
        return None if self._watched is None else self._watched.interval()

    def disable(self) -> None:
        """Take the method out. A second time nothing happens."""
        self._stack.close()

    def __enter__(self) -> Enabled:
        return self

    def __exit__(self, *_: object) -> None:
        self.disable()


def enabled_on(model: nn.Module) -> Enabled | None:
    """The method that is on in a model; None without one."""
    return vars(model).get(FOLLOWER)


def obstacle(method: Method, model: nn.Module, num_steps: int) -> str | None:
    """Why a method cannot be put into a model; None where it can."""
    if (other := enabled_on(model)) is not None:
        return f"{other.method.label} is on in it already: disable that first"
    for mark, (whose, off) in _OTHERS.items():
        if getattr(model, mark, False):
            return f"{whose} is on in it already: call {off} first"
    return method.obstacle(model, num_steps)


def enable(
    method: Method,
    model: nn.Module,
    values: Values,
    *,
    num_steps: int,
    guided: bool,
    video: bool = False,
    scheduler: Callable[[], Any] | None = None,
    counts: bool = False,
    busy: Busy = lambda _: False,
) -> Enabled:
    """Put a method into a denoiser.

    Args:
        values: of its parameters; defaults where one is left out.
        num_steps: of a generation, at least 1.
        guided: whether a call has both halves of classifier-free guidance in its batch.
        video: whether the latents have frames.
        scheduler: gives the pipeline's own, by which generations are told apart; None where the method is on
            for one generation only.
        counts: whether ``hits`` is to be filled.
        busy: tells of a thread whether it is in the middle of a generation of the pipeline.

    Raises:
        PairError: the method cannot be used with this model.
        ParamsError: a value is unknown or out of range, or was not calibrated.
    """
    complete = method.complete(values)
    if missing := [name for name in method.calibrated if name not in complete]:
        raise ParamsError(
            f"{method.label} needs {', '.join(missing)}, measured on this model: tune it "
            f"(ecdiff-tune tune method={method.name}), or give the YAML that tune wrote.",
            key="method.values",
            got=method.name,
            expected=missing,
        )
    if reason := obstacle(method, model, num_steps):
        line = f"{method.label} cannot be used with this {type(model).__name__}: {reason}."
        raise PairError(line, key="method", got=method.name)
    dial = method.parameter(method.dial)
    watched = Watched(complete[method.dial]) if counts and dial.decides else None
    follower = Follower(scheduler, num_steps, counts, busy)
    with ExitStack() as stack:
        with inside_ecdiff(model):
            stack.enter_context(without_traces(model))
            target = Target(model, num_steps, guided, video, follower)
            given = complete if watched is None else {**complete, method.dial: watched}
            forget = stack.enter_context(method.switch(target, given))

            def reset() -> None:
                forget()
                if watched is not None:
                    watched.forget()

            follower.reset = reset

            def follow() -> None:
                HookRegistry.check_if_exists_or_initialize(model).register_hook(follower, FOLLOWER)

            stack.enter_context(added_hooks(model, follow))
        enabled = Enabled(method, complete, follower, watched, ExitStack())
        vars(model)[FOLLOWER] = enabled
        stack.callback(vars(model).pop, FOLLOWER, None)
        enabled._stack = stack.pop_all()
    return enabled
