"""A digest of a model in memory, which tells models without a folder apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from diffusers.utils.torch_utils import unwrap_module
from safetensors import SafetensorError, safe_open
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


def values_digest(tensors: Iterable[Tensor], dtype: torch.dtype) -> str | None:
    """The same of floating-point values and shapes alone, whatever the tensors' names and order.

    Libraries rename the tensors of a file as they load it, and keep tied ones once. ``tensors`` may be
    coarser than ``dtype``.

    Returns:
        None where values cannot be read (offloaded, quantised).
    """
    found = set()
    for tensor in tensors:
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
            return None
        if tensor.is_floating_point():
            summary = _summary(_as_words(tensor.detach().to(dtype))).cpu().numpy().tobytes()
            found.add(hashlib.sha256(f"{tuple(tensor.shape)}".encode() + summary).digest())
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()[:16]


def parts_digests(parts: Mapping[str, object], dtype: torch.dtype) -> dict[str, str]:
    """``values_digest`` of the autoencoder and the text encoders among a pipeline's parts, by name."""
    models = {
        name: unwrap_module(part)
        for name, part in parts.items()
        if isinstance(part, nn.Module) and (name == "vae" or name.startswith("text_encoder"))
    }
    found = {name: values_digest(model.state_dict().values(), dtype) for name, model in models.items()}
    return {name: digest for name, digest in found.items() if digest is not None}


def files_digest(paths: Iterable[Path], dtype: torch.dtype) -> str | None:
    """``values_digest`` of what .safetensors files hold; None where one is of another kind or damaged."""
    try:
        return values_digest(_tensors_in(paths), dtype)
    except (OSError, SafetensorError):
        return None


def _tensors_in(paths: Iterable[Path]) -> Iterator[Tensor]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            yield from map(file.get_tensor, file.offset_keys())


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
