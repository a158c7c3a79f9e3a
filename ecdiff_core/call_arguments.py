"""What a call of ``ECDiffPipeline`` is given, in diffusers' words: checked, and refused with the reason."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ecdiff_core.config import Sampling
from ecdiff_core.errors import ParamsError, nearest
from ecdiff_core.io.text import is_unicode
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_core.sampling.plan import Action
from ecdiff_core.sampling.sampler import OnStep, SamplerState

OutputType = Literal["pil", "np", "pt", "latent"]
"""Of images: PIL, numpy (…, height, width, 3), torch (…, 3, height, width), or latents, not decoded."""
OnStepEnd = Callable[[Any, int, Tensor, dict[str, Any]], Mapping[str, Any] | None]
"""Called as diffusers calls it: pipeline, step, timestep, tensors; what it returns replaces those tensors."""
_TENSORS = ("latents",)
"""That such a callback can see and change."""
_TAKEN = (
    *("prompt", "negative_prompt", "num_images_per_prompt", "generator", "output_type"),
    *("callback_on_step_end", "callback_on_step_end_tensor_inputs", "mode", "on_step", "return_dict"),
)
_FIXED = tuple(field.name for field in fields(Sampling))


def refuse_others(others: Mapping[str, Any], sampling: Sampling) -> None:
    """Refuse arguments that a config fixes or that this pipeline does not have; None is as good as left out.

    Raises:
        ParamsError: one of them is given another value than the config's.
    """
    for name, value in others.items():
        if value is None:
            continue
        if name not in _FIXED:
            raise ParamsError(
                f"ECDiffPipeline takes no {name}: {nearest(name, _TAKEN)}.",
                key=name,
                got=value,
                expected=sorted(_TAKEN),
                advice="apply_ecdiff keeps the arguments of your own diffusers pipeline.",
            )
        own = getattr(sampling, name)
        if value != own:
            raise ParamsError(
                key=name,
                got=value,
                expected=f"= {own!r}, which the config was tuned for",
                advice="p, k, alpha and s hold for no other. "
                f"Leave {name} out, or tune again with sampling.{name}={value}.",
            )


@dataclass(frozen=True)
class Callback:
    """A diffusers callback and what it asks to see.

    Raises:
        ParamsError: it asks for other tensors than latents.
    """

    call: OnStepEnd
    tensor_inputs: Sequence[str]

    def __post_init__(self) -> None:
        _check_tensors("callback_on_step_end_tensor_inputs", self.tensor_inputs)

    def after_step(self, pipe: Any, state: SamplerState) -> SamplerState:
        """The state that it leaves behind, ``state`` being the one after a step."""
        step = state.step - 1
        given = {name: getattr(state, name) for name in self.tensor_inputs}
        returned = self.call(pipe, step, state.scheduler.timesteps[step], given) or {}
        _check_tensors("the callback to return", returned)
        latents = returned.get("latents", state.latents)
        if latents.shape != state.latents.shape:
            shape = tuple(state.latents.shape)
            raise ParamsError(
                key="the callback", got=tuple(latents.shape), expected=f"to return latents of {shape}"
            )
        return replace(state, latents=latents)


class Interrupts:
    """Which of the calls under way are to end, each in a thread of its own."""

    def __init__(self) -> None:
        self._calls: dict[int, SimpleNamespace] = {}

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around a call; one within a callback of another is a call of its own."""
        thread = threading.get_ident()
        outer, self._calls[thread] = self._calls.get(thread), SimpleNamespace(asked=False)
        try:
            yield
        finally:
            del self._calls[thread]
            if outer is not None:
                self._calls[thread] = outer

    def ask(self, value: bool) -> None:
        """For this thread's call; in a thread without one for all of them."""
        own = self._calls.get(threading.get_ident())
        for call in list(self._calls.values()) if own is None else [own]:
            call.asked = value

    def asked(self) -> bool:
        """Of this thread's call."""
        own = self._calls.get(threading.get_ident())
        return own is not None and own.asked


def callback_of(call: Any, tensor_inputs: Sequence[str] | None) -> Callback | None:
    """A callback as diffusers takes it: a function, or one of its ``PipelineCallback`` objects, or None."""
    if call is None:
        return None
    return Callback(call, getattr(call, "tensor_inputs", tensor_inputs or _TENSORS))


def _check_tensors(what: str, names: Any) -> None:
    other = [name for name in names if name not in _TENSORS]
    if other:
        line = f"Expected {what} {list(_TENSORS)} alone, got {other[0]!r}: embeddings stay as they are."
        raise ParamsError(line, key=what, got=other[0], expected=list(_TENSORS))


def check_call(
    prompts: list[Any],
    negatives: Sequence[str] | None,
    generator: object,
    images_per_prompt: object,
    output_type: object,
) -> None:
    """Refuse a call that cannot be made.

    Raises:
        ParamsError: no prompt, or one that is no UTF-8 text, numbers of prompts and generators that do not go
            together, or an unknown output type.
    """
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ParamsError("Expected a prompt or a list of at least one prompt.", key="prompt", got=prompts)
    if negatives is not None:
        if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
            raise ParamsError(key="negative_prompt", got=negatives, expected="to be text or a list of texts")
        if len(negatives) != len(prompts):
            raise ParamsError(key="negative_prompt", got=len(negatives), expected=f"one or {len(prompts)}")
    for name, texts in (("prompt", prompts), ("negative_prompt", negatives or ())):
        for text in texts:
            if not is_unicode(text):
                raise ParamsError(key=name, got=text, expected="to be UTF-8 text")
    n = images_per_prompt
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ParamsError(key="num_images_per_prompt", got=n, expected=">= 1")
    generators = generator if isinstance(generator, list) else [generator]
    if any(not isinstance(one, torch.Generator | None) for one in generators):
        kind = type(generators[0]).__name__
        raise ParamsError(
            key="generator", got=kind, expected="to be a torch.Generator, or a list with one an image"
        )
    if isinstance(generator, list) and len(generator) != len(prompts) * n:
        raise ParamsError(
            key="generator",
            got=len(generator),
            expected=f"one or {len(prompts) * n}",
            advice="A list has one an image.",
        )
    if output_type not in get_args(OutputType):
        raise ParamsError.unknown("output_type", output_type, get_args(OutputType))


def seeds_of(generator: torch.Generator | list[torch.Generator] | None, images: int) -> list[int]:
    """The seeds that another machine draws the same noise with, one an image.

    Raises:
        ParamsError: a generator for several images, one that was drawn from, or one of an accelerator.
    """
    if generator is None:
        return [secrets.randbelow(MAX_SEED) for _ in range(images)]
    generators = generator if isinstance(generator, list) else [generator]
    fresh = [torch.Generator().manual_seed(one.initial_seed()) for one in generators]
    drawn = [
        one.device.type != "cpu" or not torch.equal(one.get_state(), new.get_state())
        for one, new in zip(generators, fresh, strict=True)
    ]
    if len(generators) != images or any(drawn):
        raise ParamsError(
            "Expected one torch.Generator().manual_seed(SEED) an image, on the CPU and not yet drawn from: "
            "the cloud's machine draws the noise, and is told the seeds alone.",
            key="generator",
            got=len(generators),
            expected=str(images),
        )
    return [one.initial_seed() for one in generators]


def counted_by(bar: Any, on_step: OnStep | None) -> OnStep:
    """A step's callback that also moves a progress bar."""

    def count(step: int, action: Action, noise: Tensor) -> None:
        bar.update()
        if on_step is not None:
            on_step(step, action, noise)

    return count


def as_numpy(images: Tensor) -> Any:
    """Images (…, 3, height, width) as a float32 array (…, height, width, 3)."""
    return images.movedim(-3, -1).cpu().to(torch.float32).numpy()
