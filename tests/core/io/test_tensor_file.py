"""Bytes hold what the reader expects, or are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ecdiff_core.io.tensor_file import TensorFileError, TensorSpec, read_metadata, read_tensors, write_tensors

TENSORS = {"latents": torch.arange(24.0).reshape(1, 4, 2, 3), "eps": torch.ones(2, 3, dtype=torch.bfloat16)}
SPECS = {name: TensorSpec.of(tensor) for name, tensor in TENSORS.items()}
DATA = write_tensors(TENSORS, {"step": "3"})


def changed(change: Callable[[dict[str, Any]], object], data: bytes = DATA) -> bytes:
    """The file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def with_header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def test_reads_what_was_written() -> None:
    read = read_tensors(DATA, SPECS)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype is tensor.dtype
    assert read_metadata(DATA) == {"step": "3"}


def test_tensors_that_share_memory_and_views_are_written() -> None:
    whole = torch.arange(6.0)
    tensors = {"a": whole, "b": whole, "c": whole.reshape(2, 3).T, "d": torch.zeros(()).expand(2, 2)}
    read = read_tensors(write_tensors(tensors, {}), {n: TensorSpec.of(t) for n, t in tensors.items()})
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_values_that_are_not_finite_are_read_where_that_is_asked_for() -> None:
    tensors = {"a": torch.tensor([1.0, torch.inf])}
    specs = {"a": TensorSpec.of(tensors["a"])}
    assert torch.equal(read_tensors(write_tensors(tensors, {}), specs, finite=False)["a"], tensors["a"])
    with pytest.raises(TensorFileError, match="finite values in a"):
        read_tensors(write_tensors(tensors, {}), specs)


def test_states_of_older_versions_get_a_line() -> None:
    old = (Path(__file__).parent / "data" / "state_v1.pt").read_bytes()
    with pytest.raises(TensorFileError, match="This is a torch file, as older versions of ecdiff wrote"):
        read_tensors(old, SPECS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "These 0 bytes are no safetensors file"),
        (b"not a file", "These 10 bytes are no safetensors file"),
        (DATA[:-1], "Expected 108 bytes of values, got 107"),
        (DATA + b"x", "Expected 108 bytes of values, got 109"),
        ((2**63).to_bytes(8, "little") + DATA[8:], "are no safetensors file, or it was cut short"),
        (with_header(b" " * 2**17), "header of at most 65536 bytes, got 131072"),
        (with_header(b"[" * 2**16), "damaged: it is no JSON"),
        (with_header(b"[]"), "damaged: it is no mapping"),
        (with_header(b'{"a": NaN}'), "damaged: it is no JSON"),
        (with_header(b'{"a": 1, "a": 1}'), "it has a name twice"),
        (with_header(b'{"a": ' + b"9" * 9999 + b"}"), "damaged: it is no JSON"),
        (with_header(b"\xff\xfe"), "damaged: it is no JSON"),
        (changed(lambda h: h.pop("eps")), "that the config implies: 'eps' missing"),
        (changed(lambda h: h.update(more=h["eps"])), "that the config implies: 'more' beyond"),
        (
            changed(lambda h: h.update({f"n{i}": 0 for i in range(99)})),
            "'n0', 'n1', 'n10' and 96 others beyond",
        ),
        (changed(lambda h: h.update(eps=[])), "Expected eps to have dtype, shape and data_offsets alone"),
        (changed(lambda h: h["eps"].update(dtype="F16")), r"Expected eps to be BF16 \[2, 3\], got 'F16"),
        (changed(lambda h: h["eps"].update(dtype="F8")), "choose from BF16, F16"),
        (changed(lambda h: h["eps"].update(dtype=["BF16"])), r"Expected eps to be BF16"),
        (changed(lambda h: h["eps"].update(shape=[3, 2])), r"Expected eps to be BF16 \[2, 3\]"),
        (changed(lambda h: h["eps"].update(shape=[2, 3.0])), r"Expected eps to be BF16 \[2, 3\]"),
        (changed(lambda h: h["eps"].update(shape=[2**40, 2**40])), r"Expected eps to be BF16 \[2, 3\]"),
        (changed(lambda h: h["latents"].update(shape=[True, 4, 2, 3])), r"Expected latents to be F32"),
        (changed(lambda h: h["eps"].update(data_offsets=[0, 12])), "one after the other"),
        (changed(lambda h: h["eps"].update(data_offsets=[-12, 0])), "Expected eps to take 12 bytes"),
        (changed(lambda h: h["eps"].update(data_offsets=[0, 9**99])), "Expected eps to take 12 bytes"),
        (changed(lambda h: h["eps"].update(data_offsets=[[], {}])), "Expected eps to take 12 bytes"),
        (changed(lambda h: h.update(__metadata__={"step": 3})), "__metadata__ to map names to text"),
        (DATA[:-4] + b"\x00\x00\x80\x7f", "finite values in"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(TensorFileError, match=message) as caught:
        read_tensors(data, SPECS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
