"""A sampler's state as bytes: kept on disk, or sent from the cloud's machine to the edge's.

The bytes are a torch file of tensors, numbers and names, which ``torch.load`` reads without running anything
that is in it. The scheduler goes as its class, its config and what it remembers; what follows from the config
is made again.
"""

from __future__ import annotations

import io
from dataclasses import fields
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ECDiffError, first_line
from ecdiff_core.sampling.estimators import NoiseState
from ecdiff_core.sampling.sampler import CloudCall, SamplerState

FORMAT_VERSION = 2
"""2 added what a residual is made of, apart from the estimator's noises."""
_DAMAGED = (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError)
"""What torch and diffusers raise for bytes that are not ours."""


class SavedStateError(ECDiffError):
    """Bytes that hold no state, or one of a newer version."""


def to_bytes(state: SamplerState) -> bytes:
    """The state, its scheduler's history included; tensors keep their dtype and come back to the CPU."""
    tree = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "latents": state.latents,
        "noise": _fields(state.noise),
        "scheduler": _scheduler_tree(state.scheduler),
        "noise_dtype": state.noise_dtype,
        "cloud_call": None if state.cloud_call is None else _fields(state.cloud_call),
        "residual": state.residual,
    }
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, device: torch.device | str = "cpu") -> SamplerState:
    """What ``to_bytes`` wrote, on a device.

    Raises:
        SavedStateError: the bytes are damaged, or of a newer version.
    """
    try:
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        version = tree["format_version"]
        if version not in range(1, FORMAT_VERSION + 1):
            raise SavedStateError(
                f"Expected a saved state of version {FORMAT_VERSION} or an older one, got {version}."
            )
        noises = _to(tree["noise"], device)
        # Version 1 had the residual among the estimator's noises, and the edge's noise of one step.
        residual, _ = noises.pop("residual", None), noises.pop("edge", None)
        call, scheduler = tree.get("cloud_call"), _scheduler(tree["scheduler"], device)
        latents, noise_dtype = tree["latents"].to(device), tree.get("noise_dtype")
        if not isinstance(noise_dtype, torch.dtype | None):
            raise TypeError(f"noise_dtype is {noise_dtype!r}")
        return SamplerState(
            tree["step"],
            latents,
            NoiseState(**noises),
            scheduler,
            noise_dtype,
            cloud_call=None if call is None else CloudCall(**_to(call, device)),
            residual=_to(tree["residual"], device) if version > 1 else residual,
        )
    except _DAMAGED as error:
        raise SavedStateError(
            f"These {len(data)} bytes hold no sampler state: {first_line(error)}."
        ) from error


def _fields(value: NoiseState | CloudCall) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _scheduler_tree(scheduler: SchedulerMixin) -> dict[str, Any]:
    return {
        "class": type(scheduler).__name__,
        "config": dict(scheduler.config),
        "num_inference_steps": scheduler.num_inference_steps,
        "remembered": {name: value for name, value in vars(scheduler).items() if _is_plain(value)},
    }


def _is_plain(value: object) -> bool:
    """Whether a scheduler's attribute is a tensor, a number, a name, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, Tensor | int | float | str)


def _scheduler(tree: dict[str, Any], device: torch.device | str) -> SchedulerMixin:
    scheduler_class = getattr(diffusers, tree["class"])
    if not issubclass(scheduler_class, SchedulerMixin):
        raise TypeError(f"{tree['class']} is no scheduler")
    scheduler = scheduler_class.from_config(tree["config"])
    scheduler.set_timesteps(tree["num_inference_steps"], device=device)
    for name, value in tree["remembered"].items():
        made = getattr(
            scheduler, name, None
        )  # a scheduler keeps its tables on the CPU, its history elsewhere
        setattr(scheduler, name, _to(value, made.device if isinstance(made, Tensor) else device))
    return scheduler


def _to(value: Any, device: torch.device | str) -> Any:
    """A tensor, or those in a list, a tuple or a mapping, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_to(one, device) for one in value)
    return {name: _to(one, device) for name, one in value.items()} if isinstance(value, dict) else value
