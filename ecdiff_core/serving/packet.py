"""What crosses the link: a safetensors file of named tensors, and of facts as text beside them.

A receiver says beforehand which tensors and which facts it expects, from its own config, and takes no others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ecdiff_core.errors import ECDiffError, ParamsError, shown
from ecdiff_core.io.tensor_file import (
    MAX_HEADER_BYTES,
    TensorFileError,
    TensorSpec,
    read_metadata,
    read_tensors,
    write_tensors,
)

FORMAT_VERSION = 1
Encoding = Literal["computed", "float16", "int8"]
"""How numbers travel: in the dtype that they were computed in, in float16 (the paper's count), or in 8 bits
with a scale a channel. Tensors of less than three dimensions travel as computed: they are small, and sizes in
pixels are among them."""
_SCALE = ".scale"
_LEVELS = 127
_DIGEST = "digest"


class PacketError(ECDiffError, ValueError):
    """A packet of another config, format version or encoding than the receiver's."""


@dataclass(frozen=True)
class Form:
    """What a packet is to hold.

    Args:
        tensors: by name, as computed.
        facts: by name; those that sender and receiver both know must be equal.
    """

    tensors: Mapping[str, TensorSpec]
    facts: Mapping[str, str]

    @property
    def most_bytes(self) -> int:
        """Of a packet, in any encoding: scales come to no more than twice the smallest tensors."""
        return MAX_HEADER_BYTES + 3 * sum(spec.size_bytes for spec in self.tensors.values()) + 8


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """Tells accidents, which lines and proxies make; who means harm is kept out by the token and TLS."""
    found = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def check_encoding(name: str) -> Encoding:
    """The encoding of that name.

    Raises:
        ParamsError: there is none.
    """
    if name not in get_args(Encoding):
        raise ParamsError.unknown("packet", name, get_args(Encoding))
    return name  # type: ignore[return-value]


def write_packet(tensors: Mapping[str, Tensor], facts: Mapping[str, str], encoding: Encoding) -> bytes:
    """A packet of tensors of shape (batch, …)."""
    sent: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        how = _how(encoding, TensorSpec.of(tensor))
        if how == "int8":
            scale = tensor.float().abs().amax(_within_channel(tensor.ndim), keepdim=True) / _LEVELS
            # A channel of zeros has the scale 0, and stays one.
            sent[name] = (tensor.float() / scale.clamp(min=1e-30)).round().to(torch.int8)
            sent[name + _SCALE] = scale
        else:
            sent[name] = tensor.half() if how == "float16" else tensor
    stated = {**facts, "format_version": str(FORMAT_VERSION), "packet": encoding}
    return write_tensors(sent, {**stated, _DIGEST: _digest(sent, stated)})


def read_packet(data: bytes, form: Form, encoding: Encoding) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a packet in the dtypes of its form, on the CPU, and all its facts.

    Raises:
        PacketError: another format version or encoding, or facts that differ.
        TensorFileError: the bytes are damaged, or hold other tensors.
    """
    facts = read_metadata(data)
    wanted = {"format_version": str(FORMAT_VERSION), "packet": encoding, **form.facts}
    found = differences(facts, wanted, required=("format_version", "packet"))
    if found:
        line = f"The packet is not of this config (sender's | ours): {listed(found)}."
        raise PacketError(line, key="packet", got=found)
    specs: dict[str, TensorSpec] = {}
    for name, spec in form.tensors.items():
        specs |= _sent_as(name, spec, encoding)
    read = read_tensors(data, specs)
    if facts.pop(_DIGEST, None) != _digest(read, facts):
        line = "The packet was changed on its way: its digest is another one."
        raise TensorFileError(line, key="digest", advice="Send it again.")
    return {name: _decoded(name, spec, read) for name, spec in form.tensors.items()}, facts


def size_bytes(form: Form, encoding: Encoding) -> int:
    """Of a packet's tensors as they travel; its header is at most a few KiB more."""
    sent = [_sent_as(name, spec, encoding) for name, spec in form.tensors.items()]
    return sum(spec.size_bytes for one in sent for spec in one.values())


def differences(
    theirs: Mapping[str, str], ours: Mapping[str, str], required: tuple[str, ...] = ()
) -> dict[str, tuple[str | None, str]]:
    """Facts in which two machines differ, theirs first; one that a machine does not know is none."""
    return {
        name: (theirs.get(name), value)
        for name, value in ours.items()
        if theirs.get(name) != value and (name in theirs or name in required)
    }


def listed(found: Mapping[str, tuple[str | None, str]]) -> str:
    """Differences as a part of a sentence."""
    return "; ".join(f"{name} {shown(theirs)} | {shown(ours)}" for name, (theirs, ours) in found.items())


def _how(encoding: Encoding, spec: TensorSpec) -> Encoding:
    """How one tensor travels."""
    small = len(spec.shape) < 3 or not spec.dtype.is_floating_point
    if small or (encoding == "float16" and spec.dtype.itemsize <= 2):
        return "computed"
    return encoding


def _within_channel(ndim: int) -> tuple[int, ...]:
    """The dimensions of one channel: of embeddings (batch, tokens, width) a token is one."""
    return (-2, -1) if ndim > 3 else (-1,)


def _sent_as(name: str, spec: TensorSpec, encoding: Encoding) -> dict[str, TensorSpec]:
    how = _how(encoding, spec)
    if how == "int8":
        inner = len(_within_channel(len(spec.shape)))
        scales = (*spec.shape[:-inner], *[1] * inner)
        return {name: replace(spec, dtype=torch.int8), name + _SCALE: TensorSpec(torch.float32, scales)}
    return {name: replace(spec, dtype=torch.float16) if how == "float16" else spec}


def _decoded(name: str, spec: TensorSpec, read: Mapping[str, Tensor]) -> Tensor:
    tensor = read[name]
    if tensor.dtype is torch.int8 and spec.dtype is not torch.int8:
        tensor = tensor.float() * read[name + _SCALE]
    return tensor.to(spec.dtype)
