"""Guidance between two U-Nets of which one takes the guidance scale as an input (``families/guidance.py``).

The pipeline around the cloud model guides as that one needs it; the edge may need the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ecdiff_core.errors import PairError
from ecdiff_core.hook.history import unwrap
from ecdiff_core.models.families.guidance import embed_scale, embedding_width, is_guided


def check_guidance(cloud: nn.Module, edge: nn.Module, scale: float) -> None:
    """Refuse an edge that is to be guided where the pipeline makes no call without the prompt.

    Raises:
        PairError: it is, since the cloud takes the scale as an input.
    """
    if embedding_width(cloud) is not None and is_guided(edge, scale):
        raise PairError(
            "The cloud model takes the guidance scale as an input (time_cond_proj_dim), so its pipeline "
            f"encodes nothing but the prompt; the edge needs both halves at guidance_scale={scale:g}.",
            key="edge",
            got=scale,
            expected="time_cond_proj_dim",
            advice="Use ECDiffPipeline, which gives each model what it needs, or an edge distilled in the "
            "same way.",
        )


def call_distilled(edge: nn.Module, given: Mapping[str, Any], width: int, scale: float, *, both: bool) -> Any:
    """Call an edge that takes the scale as an input, in the place of the cloud.

    Args:
        given: the cloud's arguments by name.
        width: of the edge's embedding of the scale.
        scale: of guidance.
        both: whether they are of a batch without and with the prompt. The edge is then called with the half
            with it; its answer, guided already, is that of both halves, which guidance leaves as it is.
    """
    arguments: dict[str, Any] = dict(given)
    if both:
        arguments = _second_half(arguments, len(arguments["sample"]))
    arguments["timestep_cond"] = embed_scale(scale, width, arguments["sample"])
    output = edge(**arguments)
    if not both:
        return output
    tensor, wrap = unwrap(output)
    return wrap(torch.cat([tensor, tensor]))


def _second_half(value: Any, batch: int) -> Any:
    """The second half of every tensor whose first dimension is the batch."""
    if isinstance(value, Tensor):
        return value[batch // 2 :] if value.ndim and len(value) == batch else value
    if isinstance(value, Mapping):
        return {name: _second_half(item, batch) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_second_half(item, batch) for item in value)
    return value
