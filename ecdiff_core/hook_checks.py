"""What ``apply_ecdiff`` must know of a pipeline, its scheduler and an edge model; refusals."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils.torch_utils import get_module_execution_device, unwrap_module
from torch import nn

from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.schedulers import build_scheduler

HOOK_NAME = "ecdiff"
"""In the denoiser's HookRegistry."""

_ONLY_IF = {"image_rotary_emb": "use_rotary_positional_embeddings", "guidance": "guidance_embeds"}
"""Arguments that a model must not be given unless its config has that key set."""


def denoiser_of(holder: Any) -> nn.Module:
    """The denoiser of a diffusers pipeline; a module is one itself.

    Raises:
        PairError: there is none.
    """
    parts = [holder, getattr(holder, "unet", None), getattr(holder, "transformer", None)]
    found = [part for part in parts if isinstance(part, nn.Module)]
    if not found:
        raise PairError(
            f"{type(holder).__name__} has neither unet nor transformer: give a diffusers pipeline."
        )
    return found[0]


def forward_signature(pipe: Any) -> inspect.Signature:
    """What the denoiser of a pipeline is called with.

    Raises:
        PairError: no timestep, or the pipeline has a second denoiser for some of the steps (Wan 2.2).
    """
    if getattr(pipe, "transformer_2", None) is not None:
        raise PairError("The pipeline has two denoisers, transformer and transformer_2: one was expected.")
    model = unwrap_module(denoiser_of(pipe))
    signature = inspect.signature(model.forward)
    if "timestep" not in signature.parameters:
        raise PairError(f"{type(model).__name__} is no denoiser: its forward takes no timestep.")
    return signature


def check_scheduler(scheduler: Any, expected: str) -> None:
    """Refuse another scheduler than ``expected``, or one that draws fresh noise.

    Raises:
        ParamsError: it is one.
    """
    name = type(scheduler).__name__
    if name != expected:
        raise ParamsError(
            f"Expected the pipeline's scheduler to be {expected}, as the config was tuned with, got {name}. "
            f"Set pipe.scheduler = {expected}.from_config(pipe.scheduler.config), or check_scheduler=False."
        )
    build_scheduler(name, scheduler)  # raises for one that draws fresh noise


def check_edge(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model that cannot stand in for the cloud model.

    Raises:
        PairError: it is the cloud model itself, hooked too, or built for other latents or embeddings.
    """
    if unwrap_module(edge) is unwrap_module(cloud):
        raise PairError("The edge model is the pipeline's own denoiser: give apply_ecdiff another one.")
    registry = getattr(edge, "_diffusers_hook", None)
    if registry is not None and registry.get_hook(HOOK_NAME) is not None:
        raise PairError("ECDiff is applied to the edge model's pipeline: call remove_ecdiff on it first.")
    ours, theirs = getattr(cloud, "config", {}), getattr(edge, "config", {})
    for key in ("in_channels", "out_channels"):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise PairError(
                f"The edge does not fit the cloud: {key} is {theirs[key]}, the cloud's {ours[key]}."
            )
    rotary = _ONLY_IF["image_rotary_emb"]
    if theirs.get(rotary) and not ours.get(rotary):
        raise PairError(
            "The edge needs rotary embeddings, which a pipeline for this cloud model does not make."
        )


def check_place(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model on another device or in another dtype; offloaded ones count as where they compute.

    Raises:
        PairError: it is.
    """
    here, there = get_module_execution_device(cloud), get_module_execution_device(edge)
    if (here.type, here.index or 0) != (there.type, there.index or 0):
        raise PairError(f"The edge model is on {there}, the cloud on {here}: call edge.to({str(here)!r}).")
    ours, theirs = getattr(cloud, "dtype", None), getattr(edge, "dtype", None)
    if None not in (ours, theirs) and ours != theirs:
        raise PairError(f"The edge model is in {theirs}, the cloud in {ours}: call edge.to({ours}).")


def arguments_for(edge: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The cloud's arguments without those that the edge would misread (rotary embeddings, CogVideoX 2B)."""
    config = getattr(edge, "config", {})
    unread = [name for name, key in _ONLY_IF.items() if name in kwargs and not config.get(key, True)]
    return {**kwargs, **dict.fromkeys(unread)}


@contextmanager
def without_offload(pipe: Any) -> Iterator[None]:
    """The pipeline without accelerate's offload, which is put back around whatever was hooked meanwhile.

    Offload replaces ``forward`` anew after every call and would drop a hook that was put around it.
    """
    offloaded = any(hasattr(part, "_hf_hook") for part in pipe.components.values())
    if not offloaded or pipe.hf_device_map is not None:
        yield
        return
    whole_models = bool(getattr(pipe, "_all_hooks", None))
    again = pipe.enable_model_cpu_offload if whole_models else pipe.enable_sequential_cpu_offload
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        again(device=pipe._offload_device)
