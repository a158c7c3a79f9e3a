"""LoRA adapters of a hooked pipeline and of its edge model: whether they are those that belong together."""

from __future__ import annotations

from typing import Any

from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ecdiff_core.models.pair_spec import PairSpec


def active_adapters(model: nn.Module) -> list[str]:
    """The names of the adapters in use on a model; fused ones are part of its weights and not seen."""
    inside: Any = unwrap_module(model)
    if not getattr(inside, "peft_config", None):
        return []
    names: list[str] = []
    for layer in inside.modules():
        if hasattr(layer, "lora_A") and not layer.disable_adapters:
            names += [name for name in layer.active_adapters if name in layer.lora_A and name not in names]
    return names


def adapter_notes(cloud: nn.Module, edge: nn.Module, spec: PairSpec | None) -> list[str]:
    """What a user should know of the adapters of two models, a line each.

    Args:
        spec: of the config, which may have been tuned with adapters.
    """
    ours, theirs = active_adapters(cloud), active_adapters(edge)
    on_cloud, on_edge = ([], []) if spec is None else (spec.lora_on("cloud"), spec.lora_on("edge"))
    notes = []
    if ours and not theirs and not (on_cloud and not on_edge):
        notes.append(
            f"The cloud carries the adapter {', '.join(ours)} and the edge none: the edge's steps pull away "
            "from it. Load it for the edge model too, or tune with pair.lora and on: cloud."
        )
    for side, wanted, found in (("cloud", on_cloud, ours), ("edge", on_edge, theirs)):
        if wanted and not found:
            notes.append(
                f"The config was tuned with {', '.join(lora.path for lora in wanted)} on the {side}, which "
                "carries no adapter: load it, unless it is fused."
            )
    return notes
