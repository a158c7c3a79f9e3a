"""Bytes hold what the reader expects, or are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ecdiff_core.io.tensor_file import TensorFileError, TensorSpec, read_metadata, read_tensors, write_tensors

from ...refusals import refused

TENSORS = {"latents": torch.arange(24.0).reshape(1, 4, 2, 3), "eps": torch.ones(2, 3, dtype=torch.bfloat16)}
SPECS = {name: TensorSpec.of(tensor) for name, tensor in TENSORS.items()}
DATA = write_tensors(TENSORS, {"step": "3"})
NO_JSON = {"key": "header", "got": "is no JSON"}
EPS: dict[str, object] = {"key": "eps", "expected": "BF16 [2, 3]"}
TWELVE: dict[str, object] = {"key": "eps", "expected": "to take 12 bytes"}


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
    with refused(TensorFileError, key="a"):
        read_tensors(write_tensors(tensors, {}), specs)


def test_states_of_older_versions_get_a_line() -> None:
    old = (Path(__file__).parent / "data" / "state_v1.pt").read_bytes()
    with refused(TensorFileError, key="format", got="torch", expected="safetensors"):
        read_tensors(old, SPECS)


@pytest.mark.parametrize(
    ("data", "about"),
    [
        (b"", {"key": "bytes", "got": 0}),
        (b"not a file", {"key": "bytes", "got": 10}),
        (DATA[:-1], {"key": "bytes", "got": 107, "expected": "108"}),
        (DATA + b"x", {"key": "bytes", "got": 109, "expected": "108"}),
        ((2**63).to_bytes(8, "little") + DATA[8:], {"key": "bytes", "got": len(DATA)}),
        (with_header(b" " * 2**17), {"key": "a header", "got": 131072, "expected": "of at most 65536 bytes"}),
        (with_header(b"[" * 2**16), NO_JSON),
        (with_header(b"[]"), {"key": "header", "got": "is no mapping"}),
        (with_header(b'{"a": NaN}'), NO_JSON),
        (with_header(b'{"a": 1, "a": 1}'), {"key": "header", "got": "has a name twice"}),
        (with_header(b'{"a": ' + b"9" * 9999 + b"}"), NO_JSON),
        (with_header(b"\xff\xfe"), NO_JSON),
        (changed(lambda h: h.pop("eps")), {"key": "tensors", "got": ["latents"], "expected": sorted(SPECS)}),
        (changed(lambda h: h.update(more=h["eps"])), {"key": "tensors", "got": ["eps", "latents", "more"]}),
        (
            changed(lambda h: h.update({f"n{i}": 0 for i in range(99)})),
            {"key": "tensors", "line": "'n0', 'n1', 'n10' and 96 others"},
        ),
        (changed(lambda h: h.update(eps=[])), {"key": "eps", "expected": ["data_offsets", "dtype", "shape"]}),
        (changed(lambda h: h["eps"].update(dtype="F16")), EPS | {"got": "F16 [2, 3]"}),
        (changed(lambda h: h["eps"].update(dtype="F8")), EPS | {"line": "choose from BF16, F16"}),
        (changed(lambda h: h["eps"].update(dtype=["BF16"])), EPS | {"got": [2, 3]}),
        (changed(lambda h: h["eps"].update(shape=[3, 2])), EPS | {"got": "BF16 [3, 2]"}),
        (changed(lambda h: h["eps"].update(shape=[2, 3.0])), EPS | {"got": "BF16 [2, 3.0]"}),
        (changed(lambda h: h["eps"].update(shape=[2**40, 2**40])), EPS),
        (
            changed(lambda h: h["latents"].update(shape=[True, 4, 2, 3])),
            {"key": "latents", "got": "F32 [True, 4, 2, 3]", "expected": "F32 [1, 4, 2, 3]"},
        ),
        (
            changed(lambda h: h["eps"].update(data_offsets=[0, 12])),
            {"key": "data_offsets", "got": 0, "expected": "12"},
        ),
        (changed(lambda h: h["eps"].update(data_offsets=[-12, 0])), TWELVE | {"got": [-12, 0]}),
        (changed(lambda h: h["eps"].update(data_offsets=[0, 9**99])), TWELVE),
        (changed(lambda h: h["eps"].update(data_offsets=[[], {}])), TWELVE | {"got": [[], {}]}),
        (changed(lambda h: h.update(__metadata__={"step": 3})), {"key": "__metadata__", "got": {"step": 3}}),
        (DATA[:-4] + b"\x00\x00\x80\x7f", {"key": "eps"}),
    ],
)
def test_refuses(data: bytes, about: dict[str, Any]) -> None:
    with refused(TensorFileError, **about) as caught:
        read_tensors(data, SPECS)
    assert len(str(caught.value)) < 250
