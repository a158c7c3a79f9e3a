"""LoRA adapters of a hooked pipeline and of its edge model: whether they are those that belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from safetensors import SafetensorError
from torch import Tensor, nn

from ecdiff_core.errors import PairError
from ecdiff_core.models.lora import found_files
from ecdiff_core.models.pair_spec import Lora, PairSpec, Side


@dataclass(frozen=True)
class Adapter:
    """One in use on a model; fused ones are part of its weights and not seen.

    Args:
        weight: its factor.
        place: of its first tensor in memory, which another file's has elsewhere.
    """

    name: str
    weight: float
    place: int


def adapters_on(model: nn.Module | None) -> tuple[Adapter, ...]:
    """Those in use, in the order of the first layers that they are on."""
    found: dict[str, Adapter] = {}
    for layer, name in _layers(model):
        if name not in found:
            weight = layer.scaling[name] / _trained_scaling(layer, name)
            found[name] = Adapter(name, weight, layer.lora_A[name].weight.data_ptr())
    return tuple(found.values())


def _layers(model: nn.Module | None) -> Iterator[tuple[Any, str]]:
    """Layers with an adapter in use, and its name."""
    inside: Any = unwrap_module(model)
    if not getattr(inside, "peft_config", None):
        return
    for layer in inside.modules():
        if hasattr(layer, "lora_A") and not layer.disable_adapters:
            yield from ((layer, name) for name in layer.active_adapters if name in layer.lora_A)


def _trained_scaling(layer: Any, name: str) -> float:
    """That of a layer's adapter whose weight is 1: alpha / r, of rank-stabilised LoRA alpha / sqrt(r)."""
    rank = layer.r[name]
    stabilised = getattr(layer, "use_rslora", {}).get(name, False)
    return float(layer.lora_alpha[name] / (rank**0.5 if stabilised else rank))


def adapter_notes(pipe: Any, cloud: nn.Module, edge: nn.Module | None, spec: PairSpec) -> list[str]:
    """What a user should know of the adapters of two models, a line each.

    Args:
        pipe: the cloud's, which knows how to read the config's files.
        edge: None for a plan without calls of it.
        spec: of the config, which may have been tuned with adapters.
    """
    ours, theirs = adapters_on(cloud), adapters_on(edge)
    notes = []
    if edge is not None and ours and not theirs and not (spec.lora_on("cloud") and not spec.lora_on("edge")):
        notes.append(
            f"The cloud carries the adapter {', '.join(one.name for one in ours)} and the edge none: the "
            "edge's steps pull away from it. Load it for the edge model too, or tune with pair.lora and "
            "on: cloud."
        )
    sides: tuple[tuple[Side, nn.Module | None], ...] = (("cloud", cloud), ("edge", edge))
    for side, model in sides:
        if model is not None and spec.lora_on(side):
            notes += _side_notes(side, pipe, model, spec)
    return notes


def _side_notes(side: Side, pipe: Any, model: nn.Module, spec: PairSpec) -> list[str]:
    found, wanted = adapters_on(model), spec.lora_on(side)
    names = ", ".join(lora.path for lora in wanted)
    if not found:
        return [
            f"The config was tuned with {names} on the {side}, which carries no adapter: load it, unless it "
            "is fused."
        ]
    carried = {one.name: one.weight for one in found}
    tuned = [lora.weight for lora in wanted]
    if len(found) != len(wanted) or not all(map(_alike, sorted(carried.values()), sorted(tuned))):
        weighed = ", ".join(f"{name} with weight {weight:g}" for name, weight in carried.items())
        asked = ", ".join(f"{lora.path} with weight {lora.weight:g}" for lora in wanted)
        return [
            f"The {side} carries {weighed}, the config was tuned with {asked}: p, k, alpha and s hold for "
            "that. Set those weights with set_adapters, or tune again."
        ]
    if _is_other(pipe, model, wanted):
        return [
            f"The adapter {', '.join(one.name for one in found)} on the {side} is another than the config "
            f"was tuned with ({names}): p, k, alpha and s hold for that. Load it, or tune again."
        ]
    return []


def _alike(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)


def _is_other(pipe: Any, model: nn.Module, wanted: Sequence[Lora]) -> bool:
    """Whether a tensor of the adapters in use is in none of the files; False where they cannot be read."""
    try:
        files = [tensor for lora in found_files(wanted) for tensor in _tensors_of(pipe, model, lora.path)]
    except (PairError, OSError, ValueError, KeyError, SafetensorError):
        return False
    known: dict[torch.dtype, set[str]] = {}
    for layer, name in _layers(model):
        dtype = layer.get_base_layer().weight.dtype  # adapters of half-precision models may be float32
        if not dtype.is_floating_point:
            return False
        if dtype not in known:
            known[dtype] = {_digest(tensor, dtype) for tensor in files}
        for tensor in (layer.lora_A[name].weight, layer.lora_B[name].weight):
            if not tensor.is_meta and _digest(tensor, dtype) not in known[dtype]:
                return True
    return False


def _tensors_of(pipe: Any, model: nn.Module, path: str) -> list[Tensor]:
    config: Any = getattr(unwrap_module(model), "config", None)
    unet = {"unet_config": config} if hasattr(pipe, "unet") else {}
    state = pipe.lora_state_dict(path, **unet)
    tensors = state[0] if isinstance(state, tuple) else state
    return [tensor for tensor in tensors.values() if isinstance(tensor, Tensor)]


def _digest(tensor: Tensor, dtype: torch.dtype) -> str:
    values = tensor.detach().to("cpu", dtype).contiguous().flatten()
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
