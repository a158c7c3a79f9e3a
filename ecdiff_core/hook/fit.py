"""Whether an edge model can stand in for the cloud model inside its diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from diffusers import ModelMixin
from diffusers.utils.torch_utils import get_module_execution_device, unwrap_module
from torch import nn

from ecdiff_core.errors import PairError
from ecdiff_core.hook.checks import hook_on
from ecdiff_core.models.families import FAMILIES

ONLY_IF = {"image_rotary_emb": "use_rotary_positional_embeddings", "guidance": "guidance_embeds"}
"""Arguments that a model must not be given unless its config has that key set."""
_WORDS = {"image_rotary_emb": "rotary embeddings", "guidance": "the guidance scale as an embedding"}
"""What those are."""
_OTHER_EMBEDDINGS = ("caption_channels", "encoder_hid_dim", "encoder_hid_dim_type", "text_dim")
"""Keys of models that no family here is for (PixArt, Sana, Kandinsky, Wan)."""
_RESIDUALS = ("down_block_additional_residuals", "down_intrablock_additional_residuals")
"""Arguments that a pipeline adds to the blocks of a U-Net, one by one (ControlNet, T2I-Adapter)."""
_ADDED = (
    ("added_cond_kwargs", "image_embeds"),
    ("joint_attention_kwargs", "ip_adapter_image_embeds"),
    ("cross_attention_kwargs", "gligen"),
)
"""What comes beside the prompt: the model's argument and the key in it."""
_READ_BY = ("encoder_hid_proj", "image_proj", "position_net")
"""Layers that read it."""
_BLOCKS = ("down_block_types", "layers_per_block", "block_out_channels")
"""Keys of a U-Net's config that tell what fits them."""


def check_edge(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model that cannot stand in for the cloud model.

    Raises:
        PairError: it is the cloud model itself, hooked too, of another class, or built for other latents or
            embeddings.
    """
    if unwrap_module(edge) is unwrap_module(cloud):
        line = "The edge model is the pipeline's own denoiser: give apply_ecdiff another one."
        raise PairError(line, key="edge", got="cloud")
    check_not_hooked(edge)
    classes = type(unwrap_module(cloud)), type(unwrap_module(edge))
    models = all(
        issubclass(one, ModelMixin) for one in classes
    )  # others may be anything that is called alike
    if models and not (issubclass(*classes) or issubclass(*reversed(classes))):
        expected, got = (one.__name__ for one in classes)
        line = f"The edge does not fit the cloud: it is a {got}, the cloud a {expected}."
        raise PairError(line, key="edge", got=got, expected=expected)
    ours, theirs = getattr(cloud, "config", {}), getattr(edge, "config", {})
    for key, why in _must_agree().items():
        if key in ours and key in theirs and _listed(ours[key]) != _listed(theirs[key]):
            other, own = theirs[key], ours[key]
            line = f"The edge does not fit the cloud: {key} is {other}, the cloud's {own} ({why})."
            raise PairError(line, key=f"edge.{key}", got=other, expected=str(own))
    for name, key in ONLY_IF.items():
        if theirs.get(key) and not ours.get(key):
            line = f"The edge needs {_WORDS[name]}, which a pipeline for this cloud model does not make."
            raise PairError(line, key=f"edge.{key}", got=theirs[key])


@cache
def _must_agree() -> dict[str, str]:
    """Keys of a denoiser's config, of all families, that must be the cloud's, and why."""
    rows = [row for family in FAMILIES.values() for row in family.must_agree.values()]
    return {key: why for keys, why in rows for key in keys} | dict.fromkeys(
        _OTHER_EMBEDDINGS, "the edge cannot take the cloud's embeddings"
    )


def _listed(value: Any) -> Any:
    """A config's tuples as lists, which they are once it was saved."""
    return list(value) if isinstance(value, tuple) else value


def check_not_hooked(edge: nn.Module) -> None:
    """Refuse an edge model that would itself be shared.

    Raises:
        PairError: ``apply_ecdiff`` was called on its pipeline.
    """
    if hook_on(edge) is not None:
        line = "ECDiff is applied to the edge model's pipeline: call remove_ecdiff on it first."
        raise PairError(line, key="edge", got="hooked")


def check_residuals(cloud: nn.Module, edge: nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse what a ControlNet or an adapter adds to the cloud's blocks where the edge has others.

    Args:
        given: what the pipeline calls the cloud model with, by name.

    Raises:
        PairError: there is such a part.
    """
    added = [name for name in _RESIDUALS if given.get(name) is not None]
    ours, theirs = getattr(cloud, "config", {}), getattr(edge, "config", {})
    other = [key for key in _BLOCKS if _listed(ours.get(key)) != _listed(theirs.get(key))]
    if added and other:
        key = other[0]
        raise PairError(
            f"The pipeline adds {added[0]} (a ControlNet's or an adapter's) to the cloud's blocks, and the "
            f"edge has others: {key} is {theirs.get(key)}, the cloud's {ours.get(key)}.",
            key=f"edge.{key}",
            got=theirs.get(key),
            expected=str(ours.get(key)),
            advice="Choose an edge with the cloud's blocks, or leave the ControlNet out.",
        )


def check_added(cloud: nn.Module, edge: nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse images or boxes beside the prompt (IP-Adapter, GLIGEN) that the edge would not heed.

    Args:
        given: what the pipeline calls the cloud model with, by name.

    Raises:
        PairError: the cloud has layers for them and the edge has none.
    """
    added = [key for name, key in _ADDED if (given.get(name) or {}).get(key) is not None]
    lacking = [
        name
        for name in _READ_BY
        if getattr(cloud, name, None) is not None and getattr(edge, name, None) is None
    ]
    if added and lacking:
        raise PairError(
            f"The call gives {added[0]} (of an IP-Adapter or GLIGEN), for which the edge model has no "
            f"{lacking[0]}: its steps would go by the prompt alone.",
            key=added[0],
            expected=lacking,
            advice="Load the adapter for the edge model too, or leave it out.",
        )


def check_positions(edge: nn.Module, given: Mapping[str, Any]) -> None:
    """Refuse latents that are larger than the edge's table of position embeddings (Stable Diffusion 3).

    Args:
        given: what the pipeline calls the cloud model with, by name.

    Raises:
        PairError: they are.
    """
    config, latents = getattr(edge, "config", {}), given.get("hidden_states")
    table, patch = config.get("pos_embed_max_size"), config.get("patch_size")
    if table is None or patch is None or latents is None:
        return
    height, width = latents.shape[-2:]
    if max(height, width) > table * patch:
        raise PairError(
            f"Expected latents of at most {table * patch} rows and columns, for which the edge model has "
            f"position embeddings, got {height}x{width}.",
            key="latents",
            got=(height, width),
            expected=f"at most {table * patch}",
            advice="Give the call a smaller height and width.",
        )


def check_place(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model on another device or in another dtype; offloaded ones count as where they compute.

    Raises:
        PairError: it is.
    """
    here, there = get_module_execution_device(cloud), get_module_execution_device(edge)
    if (here.type, here.index or 0) != (there.type, there.index or 0):
        line = f"The edge model is on {there}, the cloud on {here}: call edge.to({str(here)!r})."
        raise PairError(line, key="edge.device", got=str(there), expected=str(here))
    ours, theirs = getattr(cloud, "dtype", None), getattr(edge, "dtype", None)
    if None not in (ours, theirs) and ours != theirs:
        line = f"The edge model is in {theirs}, the cloud in {ours}: call edge.to({ours})."
        raise PairError(line, key="edge.dtype", got=str(theirs), expected=str(ours))
