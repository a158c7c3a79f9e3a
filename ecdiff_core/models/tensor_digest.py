"""A digest of a model in memory, which tells models without a folder apart."""

from __future__ import annotations

import hashlib

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

_SAMPLES = 64
"""Words of a tensor that enter the digest as they are, evenly spread."""


def tensor_digest(model: nn.Module, dtype: torch.dtype) -> str | None:
    """The first 16 hex digits of a SHA-256 over names, shapes and values of a model's tensors.

    Of every tensor the exact sum of its 64-bit words enters, and 64 of them as they are. So other weights, a
    tensor that is zeroed or two that are exchanged show, on whatever device and in whatever memory format. It
    guards against mistakes, not against intent: changes within one tensor that leave its sum as it was, such
    as values that change places, may not show. It reads the weights once: 2.6 billion parameters take about
    a second.

    Args:
        dtype: what floating-point values are rounded to first, as loading in that dtype does. So a model in
            float32 can be compared with one that was loaded in float16.

    Returns:
        None where there is none: values are kept elsewhere (offloaded layer by layer), in a dtype that
        ``dtype`` cannot be got from, or quantised in a class of their own (torchao).
    """
    digest = hashlib.sha256()
    state = unwrap_module(model).state_dict()
    words: list[Tensor] = []
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
            return None
        if tensor.is_floating_point():
            if tensor.dtype not in (dtype, torch.float32, torch.float64):
                return None
            tensor = tensor.detach().to(dtype)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        words.append(_summary(_as_words(tensor)))
    for values in words:  # after the loop: copies from an accelerator wait for it
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _as_words(tensor: Tensor) -> Tensor:
    """The values of a tensor as int64, filled up with zeros; whatever its memory format."""
    values = tensor.reshape(-1).view(torch.uint8)
    missing = -len(values) % 8
    if missing:
        values = nn.functional.pad(values, (0, missing))
    elif values.storage_offset() % 8:
        values = values.clone()
    return values.view(torch.int64)


def _summary(words: Tensor) -> Tensor:
    """The sum (modulo 2^64, so that its order does not matter) and some of the words."""
    if not len(words):
        return words
    places = torch.linspace(0, len(words) - 1, min(_SAMPLES, len(words)), dtype=torch.float64).long()
    return torch.cat([words.sum(dtype=torch.int64)[None], words[places.to(words.device)]])
