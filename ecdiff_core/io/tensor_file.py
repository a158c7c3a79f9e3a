"""Tensors as safetensors bytes, of which a reader takes nothing but what it expects.

Every name, dtype, shape and offset is compared with the reader's own before a tensor is made, so that bytes
from anywhere cost no more than their own length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ecdiff_core.errors import ECDiffError, nearest, shown

MAX_HEADER_BYTES = 2**16
"""Far above what a packet or a state needs."""
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I8": torch.int8,
}
"""By safetensors' names; those that noises, latents and embeddings have."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PREFIX = 8
"""Bytes that tell the length of the header, the lowest first."""
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}


class TensorFileError(ECDiffError, ValueError):
    """Bytes that are no safetensors file, or hold other tensors than the reader expects."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is to be."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def size_bytes(self) -> int:
        """What its values take."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{_NAMES[self.dtype]} {list(self.shape)}"


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; tensors may lie anywhere and share memory."""
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(apart, dict(metadata))


def read_metadata(data: bytes) -> dict[str, str]:
    """The flat ``__metadata__`` of a safetensors file.

    Raises:
        TensorFileError: it is none, or its header is damaged.
    """
    return _metadata(_header(data)[0])


def read_tensors(
    data: bytes, expected: Mapping[str, TensorSpec], *, finite: bool = True
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        expected: all of them, by name.
        finite: refuse values that are not.

    Raises:
        TensorFileError: another name, dtype, shape or length, an offset that leaves a gap, or a value that is
            not finite where all are to be.
    """
    header, begin = _header(data)
    _metadata(header)
    entries = {name: entry for name, entry in header.items() if name != _METADATA}
    if entries.keys() != expected.keys():
        more, fewer = sorted(entries.keys() - expected.keys()), sorted(expected.keys() - entries.keys())
        raise TensorFileError(
            "Expected the tensors that the config implies: "
            + "; ".join(
                _counted(what, names) for what, names in (("beyond", more), ("missing", fewer)) if names
            )
            + ".",
            key="tensors",
            got=sorted(entries),
            expected=sorted(expected),
        )
    places = {name: _place(name, entry, expected[name]) for name, entry in entries.items()}
    _check_gapless(places, len(data) - begin)
    whole = bytearray(memoryview(data)[begin:])  # torch wants memory that may be written
    read = {name: _tensor(whole, place, expected[name]) for name, (place, _) in places.items()}
    for name, tensor in read.items():
        if finite and tensor.is_floating_point() and not tensor.isfinite().all():
            raise TensorFileError(
                f"Expected finite values in {name}. The sender's models overflow, or it lies.", key=name
            )
    return read


def _tensor(whole: bytearray, place: int, spec: TensorSpec) -> Tensor:
    if not spec.size_bytes:
        return torch.empty(spec.shape, dtype=spec.dtype)
    flat = torch.frombuffer(whole, dtype=spec.dtype, count=prod(spec.shape), offset=place)
    return flat.reshape(spec.shape)


def _counted(what: str, names: Sequence[str]) -> str:
    some = ", ".join(shown(name) for name in names[:3])
    return f"{some}{f' and {len(names) - 3} others' if len(names) > 3 else ''} {what}"


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header as JSON reads it, and where the values begin."""
    if data[:4] == b"PK\x03\x04":
        raise TensorFileError(
            "This is a torch file, as older versions of ecdiff wrote states.",
            key="format",
            got="torch",
            expected="safetensors",
            advice="They are safetensors files now, and no other is read: make it again.",
        )
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX or length > len(data) - _PREFIX:
        raise TensorFileError(
            f"These {len(data)} bytes are no safetensors file, or it was cut short.",
            key="bytes",
            got=len(data),
        )
    if length > MAX_HEADER_BYTES:
        raise TensorFileError(key="a header", got=length, expected=f"of at most {MAX_HEADER_BYTES} bytes")
    begin = _PREFIX + length
    try:
        header = json.loads(data[_PREFIX:begin], object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except TensorFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged_header("is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged_header("is no mapping")
    return header, begin


def _damaged_header(why: str) -> TensorFileError:
    line = f"The header of this safetensors file is damaged: it {why}."
    return TensorFileError(line, key="header", got=why)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _damaged_header("has a name twice")
    return found


def _refuse(name: str) -> float:
    raise ValueError(name)


def _metadata(header: Mapping[str, Any]) -> dict[str, str]:
    found = header.get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TensorFileError(f"Expected {_METADATA} to map names to text.", key=_METADATA, got=found)
    return found


def _place(name: str, entry: Any, spec: TensorSpec) -> tuple[int, int]:
    """Where a tensor's values begin and end."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        line = f"Expected {name} to have dtype, shape and data_offsets alone."
        raise TensorFileError(line, key=name, got=entry, expected=sorted(_ENTRY))
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or _DTYPES.get(dtype) is not spec.dtype or not _is(shape, spec.shape):
        got = f"{dtype} {shape}" if isinstance(dtype, str) else shape
        known = (
            "" if isinstance(dtype, str) and dtype in _DTYPES else f" ({nearest(str(dtype)[:9], _DTYPES)})"
        )
        line = f"Expected {name} to be {spec}, got {shown(got)}{known}."
        raise TensorFileError(line, key=name, got=got, expected=str(spec))
    begin = offsets[0] if isinstance(offsets, list) and len(offsets) == 2 else None
    if type(begin) is not int or begin < 0 or not _is(offsets, (begin, begin + spec.size_bytes)):
        raise TensorFileError(key=name, got=offsets, expected=f"to take {spec.size_bytes} bytes")
    return begin, begin + spec.size_bytes


def _is(got: Any, wanted: tuple[int, ...]) -> bool:
    """Whether a JSON list holds these whole numbers; true is none."""
    return isinstance(got, list) and all(type(one) is int for one in got) and tuple(got) == wanted


def _check_gapless(places: Mapping[str, tuple[int, int]], length: int) -> None:
    end = 0
    for begin, after in sorted(places.values()):
        if begin != end:
            line = f"Expected tensors one after the other, got one at byte {begin}, not {end}."
            raise TensorFileError(line, key="data_offsets", got=begin, expected=str(end))
        end = after
    if end != length:
        line = f"Expected {end} bytes of values, got {length}: the file was cut or added to."
        raise TensorFileError(line, key="bytes", got=length, expected=str(end))
