"""Samples of a batch, taken out of it and put together anew: rows of a batch do not know each other.

A state's rows are those of its latents, of its noises and of whatever its scheduler remembers in the shape of
the latents (the earlier outputs of multistep schedulers).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.sampling.sampler import SamplerState


@dataclass(frozen=True)
class Conditioning:
    """What encoded prompts hand to the denoiser: a family's tensors by name, for ``size`` prompts.

    With guidance a tensor's first half is without, its second half with the prompt.
    """

    tensors: dict[str, Tensor]
    size: int

    @property
    def with_prompt(self) -> dict[str, Tensor]:
        """The tensors' halves with the prompt; all of them where there is no other half."""
        return {name: tensor[-self.size :] for name, tensor in self.tensors.items()}


def take(state: SamplerState, rows: Sequence[int]) -> SamplerState:
    """The state of some rows of a batch, in their order."""
    shape, index = state.latents.shape, torch.tensor(list(rows), device=state.latents.device)

    return _combined([state], shape, lambda _, tensors: tensors[0][index])


def join(states: Sequence[SamplerState]) -> SamplerState:
    """One batch of the rows of several states at the same step of the same plan.

    Raises:
        ValueError: they are at different steps.
    """
    if len({state.step for state in states}) != 1:
        raise ValueError(f"Expected states at one step, got steps {[state.step for state in states]}.")
    if len(states) == 1:
        return states[0]
    return _combined(states, states[0].latents.shape, lambda _, tensors: torch.cat(tensors))


def move(state: SamplerState, device: torch.device | str) -> SamplerState:
    """The state with its rows on a device; the scheduler's tables stay where they are."""
    return _combined([state], state.latents.shape, lambda _, tensors: tensors[0].to(device))


def rows_of(state: SamplerState) -> dict[str, Tensor]:
    """The tensors that are a state's rows, by where they lie: ``latents``, ``noise.real.0``, …"""
    found: dict[str, Tensor] = {}

    def note(name: str, tensors: tuple[Tensor, ...]) -> Tensor:
        found[name] = tensors[0]
        return tensors[0]

    _combined([state], state.latents.shape, note)
    return found


def with_rows(state: SamplerState, rows: Mapping[str, Tensor]) -> SamplerState:
    """The state with other tensors, of any shape, in the place of all its rows; names as of ``rows_of``."""
    return _combined([state], state.latents.shape, lambda name, _: rows[name])


def size_bytes(state: SamplerState) -> int:
    """What the rows of a state take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in rows_of(state).values())


def take_prompts(conditioning: Conditioning, rows: Sequence[int]) -> Conditioning:
    """The conditioning of some prompts, in their order, each as often as it is named."""
    size, index = conditioning.size, torch.tensor(list(rows))

    def pick(tensor: Tensor) -> Tensor:
        chosen = index.to(tensor.device)
        return tensor[chosen] if len(tensor) == size else tensor[torch.cat([chosen, chosen + size])]

    return Conditioning({name: pick(tensor) for name, tensor in conditioning.tensors.items()}, len(rows))


def move_prompts(conditioning: Conditioning, device: torch.device | str) -> Conditioning:
    """The conditioning on a device."""
    return replace(
        conditioning, tensors={name: tensor.to(device) for name, tensor in conditioning.tensors.items()}
    )


def join_prompts(parts: Sequence[Conditioning]) -> Conditioning:
    """One batch of the prompts of several conditionings."""

    def together(name: str) -> Tensor:
        tensors = [part.tensors[name] for part in parts]
        if len(tensors[0]) == parts[0].size:
            return torch.cat(tensors)
        halves = [tensor.chunk(2) for tensor in tensors]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves])

    names = parts[0].tensors
    return Conditioning({name: together(name) for name in names}, sum(part.size for part in parts))


Combine = Callable[[str, tuple[Tensor, ...]], Tensor]


def _combined(states: Sequence[SamplerState], shape: torch.Size, combine: Combine) -> SamplerState:
    """One state whose rows are ``combine`` of their name and the rows of several."""

    def over(name: str, values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            is_row = first.shape[1:] == shape[1:] and first.ndim == len(shape)
            return combine(name, tuple(values)) if is_row else first
        if isinstance(first, list | tuple):
            together = zip(*values, strict=True)
            return type(first)(over(f"{name}.{i}", items) for i, items in enumerate(together))
        if isinstance(first, SchedulerMixin):
            return _combined_scheduler(name, values, over)
        if is_dataclass(first) and not isinstance(first, type):
            parts = {
                f.name: over(
                    f"{name}.{f.name}".removeprefix("."), [getattr(value, f.name) for value in values]
                )
                for f in fields(first)
            }
            return replace(first, **parts)
        return first

    combined: SamplerState = over("", states)
    return combined


def _combined_scheduler(
    name: str, schedulers: Sequence[SchedulerMixin], over: Callable[[str, Sequence[Any]], Any]
) -> SchedulerMixin:
    """The first scheduler with its history combined; itself where it has none, since states never step it."""
    changed = {}
    for key, value in vars(schedulers[0]).items():
        combined = over(f"{name}.{key}", [vars(scheduler)[key] for scheduler in schedulers])
        if not _is_same(combined, value):
            changed[key] = combined
    if not changed:
        return schedulers[0]
    scheduler = copy.copy(schedulers[0])
    vars(scheduler).update(changed)
    return scheduler


def _is_same(one: Any, other: Any) -> bool:
    """Whether nothing was combined in a value or in its items."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one is other
