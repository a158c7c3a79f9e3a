"""Follows a denoiser's calls: where a generation begins, which step a call is, which layers ran in it."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.hooks import ModelHook
from diffusers.hooks.hooks import CacheContext, StateManager
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ecdiff_core.errors import ParamsError
from ecdiff_core.methods.hits import DenoiserCall, Hits

BUSY = (
    "Another call of this pipeline is under way in another thread, and what an acceleration keeps of a "
    "generation is kept on the model: let calls wait for each other, or load a pipeline a thread."
)
Busy = Callable[[int], bool]
"""Whether a thread is still in the middle of a generation."""


class Follower(ModelHook):
    """A hook on the denoiser itself, around all that a method puts into it.

    A generation begins where the scheduler has new timesteps, where they rise again, and after a call that
    raised. ``step`` counts the calls' steps upwards from 0 (those that ``apply_ecdiff`` skips are not seen),
    ``branch`` the calls of a step.

    Args:
        scheduler: gives the one in use; None where a follower lives for one generation only.
        num_steps: of a generation.
        counts: whether to note which layers run, which takes a little time.
        busy: tells of the thread that began the generation under way.
    """

    def __init__(self, scheduler: Callable[[], Any] | None, num_steps: int, counts: bool, busy: Busy) -> None:
        super().__init__()
        self._scheduler, self._num_steps, self._counts, self._busy = scheduler, num_steps, counts, busy
        self.managers: list[StateManager] = []
        self.reset: Callable[[], None] = lambda: None
        self._signature: inspect.Signature | None = None
        self._handles: list[RemovableHandle] = []
        self._calls: list[DenoiserCall] = []
        self._ran: list[tuple[int, int, int]] = []
        self._full: dict[int, int] = {}
        self._whole = 0.0
        self.forget()

    def forget(self) -> None:
        """Expect a new generation; what was counted stays readable."""
        self.step, self.branch, self.timestep = -1, 0, float("inf")
        self._branches = 0
        self._timesteps: Tensor | None = None
        self._thread: int | None = None
        self._in_call = False
        self._contexts: dict[int, CacheContext | None] = {}

    @property
    def hits(self) -> Hits:
        """Of the generation under way, or the last one."""
        return Hits(tuple(self._calls))

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self._signature = inspect.signature(type(module).forward)
        if self._counts:
            self._listen(module)
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return module

    @torch.compiler.disable
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Find the step of a call; begin a generation where it is the first.

        Raises:
            ParamsError: another thread is in the middle of one.
        """
        assert self._signature is not None
        given = self._signature.bind_partial(module, *args, **kwargs).arguments
        self._enter(torch.as_tensor(given["timestep"]).max().item())
        self._set_contexts(given["timestep"])
        self._in_call = True
        self._ran.clear()
        return args, kwargs

    @torch.compiler.disable
    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Note what ran."""
        for manager in self.managers:
            manager.set_context(self._contexts.get(id(manager)))
        self._in_call = False
        if self._counts:
            self._calls.append(self._call())
        return output

    def _enter(self, timestep: float) -> None:
        timesteps = None if self._scheduler is None else self._scheduler().timesteps
        mine = self._thread in (None, threading.get_ident())
        if not mine and self._busy(self._thread or 0):
            raise ParamsError(BUSY, key="pipe", got="busy")
        begins = self._in_call or not mine or timesteps is not self._timesteps or timestep > self.timestep
        if begins or self.step < 0:
            self._begin(timesteps)
        if timestep == self.timestep and (not self._branches or self.branch + 1 < self._branches):
            self.branch += 1
        else:
            if self.step == 0:
                self._branches = self.branch + 1
            self.step, self.branch, self.timestep = self.step + 1, 0, timestep

    def _begin(self, timesteps: Tensor | None) -> None:
        contexts = {id(one): one._context for one in self.managers}
        self.reset()  # which drops the contexts that a pipeline may have set already
        for manager in self.managers:
            manager.set_context(contexts[id(manager)])
        self.forget()
        self._calls, self._full = [], {}
        self._timesteps, self._thread = timesteps, threading.get_ident()

    def _set_contexts(self, timestep: Any) -> None:
        """Give caches the context that their pipeline does not set, and where in the generation this is."""
        for manager in self.managers:
            known = manager._context
            self._contexts[id(manager)] = known
            context = known or CacheContext(f"branch {self.branch}")
            if context.step_index is None:
                context = replace(
                    context, step_index=self.step, num_inference_steps=self._num_steps, timestep=timestep
                )
            if context.sigma is None:
                context = replace(context, sigma=self._sigma())
            manager.set_context(context)

    def _sigma(self) -> float:
        """Share of noise in the latents, 0 … 1: of flow matching its time, else sigma / (alpha + sigma)."""
        scheduler = None if self._scheduler is None else self._scheduler()
        known = getattr(scheduler, "alphas_cumprod", None)
        if known is None:
            return min(1.0, self.timestep / 1000 if self.timestep > 1 else self.timestep)
        kept = float(known[min(len(known) - 1, max(0, round(self.timestep)))])
        signal, noise = kept**0.5, (1 - kept) ** 0.5
        return noise / (signal + noise)

    def _listen(self, model: nn.Module) -> None:
        weighted = [one for one in model.modules() if not any(True for _ in one.children())]
        for index, leaf in enumerate(weighted):
            weights = sum(one.numel() for one in leaf.parameters())
            if weights:
                self._handles.append(leaf.register_forward_hook(self._note(index, weights)))

    def _note(self, index: int, weights: int) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            batch = len(output) if isinstance(output, Tensor) else 1
            if self._in_call:
                self._ran.append((index, weights, batch))

        return note

    def _call(self) -> DenoiserCall:
        """What the call applied, against the first one of its generation, which every method computes."""
        for index, _, batch in self._ran:
            self._full.setdefault(index, batch)
        shares = [(index, weights, batch / self._full[index]) for index, weights, batch in self._ran]
        applied = sum(weights * share for _, weights, share in shares)
        if not self._calls:
            self._whole = applied
        parts = " ".join(f"{index}:{share:g}" for index, _, share in sorted(shares))
        digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
        return DenoiserCall(round(min(1.0, applied / max(1, self._whole)), 6), digest)
