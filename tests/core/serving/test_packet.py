"""Packets arrive as they were sent, or are refused; what an encoding costs is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ecdiff_core.errors import ParamsError
from ecdiff_core.io.tensor_file import TensorFileError, TensorSpec, write_tensors
from ecdiff_core.serving.packet import Encoding, Form, PacketError, check_encoding, read_packet, write_packet
from fuzz_packets import FORM, fuzz, packet

from ...refusals import refused

TENSORS = {
    "latents": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
    "embeds": torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).half(),
    "time_ids": torch.tensor([[1023.0, 4097.0], [0.0, 7.0]]),
}
ALL = Form({name: TensorSpec.of(tensor) for name, tensor in TENSORS.items()}, {"step": "3"})


def sent(encoding: Encoding) -> dict[str, torch.Tensor]:
    return read_packet(write_packet(TENSORS, ALL.facts, encoding), ALL, encoding)[0]


def test_as_computed_is_bit_for_bit() -> None:
    assert all(torch.equal(sent("computed")[name], tensor) for name, tensor in TENSORS.items())


def test_float16_halves_float32_and_leaves_small_tensors() -> None:
    read = sent("float16")
    assert torch.equal(read["latents"], TENSORS["latents"].half().float())
    assert torch.equal(read["embeds"], TENSORS["embeds"])
    assert torch.equal(read["time_ids"], TENSORS["time_ids"])


def test_int8_is_within_half_a_level_of_its_channel() -> None:
    read = sent("int8")
    level = TENSORS["latents"].abs().amax((-2, -1), keepdim=True) / 127
    assert ((read["latents"] - TENSORS["latents"]).abs() <= level / 2 * 1.0001).all()
    assert read["embeds"].dtype is torch.float16
    assert torch.equal(read["time_ids"], TENSORS["time_ids"])


def test_int8_keeps_a_channel_of_zeros() -> None:
    zeros = {"latents": torch.zeros(1, 2, 3, 3)}
    form = Form({"latents": TensorSpec.of(zeros["latents"])}, {})
    assert torch.equal(
        read_packet(write_packet(zeros, {}, "int8"), form, "int8")[0]["latents"], zeros["latents"]
    )


def test_sizes_fall_with_the_encoding() -> None:
    latents = {"latents": torch.randn(1, 4, 64, 64)}
    sizes = [len(write_packet(latents, {}, encoding)) for encoding in ("computed", "float16", "int8")]
    values = 4 * 64 * 64
    assert [round(size / values) for size in sizes] == [4, 2, 1]


@pytest.mark.parametrize(
    ("facts", "got"),
    [({"step": "11"}, {"step": ("10", "11")}), ({"plan": "10C"}, {"plan": ("7C2A1C3E", "10C")})],
)
def test_facts_that_differ_are_told(facts: dict[str, str], got: dict[str, object]) -> None:
    with refused(PacketError, key="packet", got=got):
        read_packet(packet("computed"), replace(FORM, facts={**FORM.facts, **facts}), "computed")


def test_facts_that_one_side_does_not_know_are_no_difference() -> None:
    form = replace(FORM, facts={**FORM.facts, "edge": "0123"})
    assert read_packet(packet("computed"), form, "computed")[1]["seed"] == "3"


def test_another_version_or_encoding_is_refused() -> None:
    with refused(PacketError, key="packet", got={"packet": ("computed", "int8")}):
        read_packet(packet("computed"), FORM, "int8")
    newer = write_tensors(TENSORS, {"format_version": "2", "packet": "computed"})
    with refused(PacketError, key="packet", got={"format_version": ("2", "1")}):
        read_packet(newer, FORM, "computed")
    with refused(PacketError, key="packet"):
        read_packet(write_tensors(TENSORS, {}), FORM, "computed")


def test_a_changed_value_is_noticed() -> None:
    data = bytearray(packet("computed"))
    data[-1] ^= 1
    with refused(TensorFileError, key="digest"):
        read_packet(bytes(data), FORM, "computed")


def test_damaged_packets_are_all_refused_quickly() -> None:
    found = fuzz(count=400, seed=1)
    assert (found.accepted, found.crashed) == ({}, {})
    assert found.slowest < 0.05
    assert found.grown_bytes < 50 * 2**20


def test_a_reader_that_checks_less_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the digest some damage passes."""
    monkeypatch.setattr("ecdiff_core.serving.packet._digest", lambda *_: "0")
    assert fuzz(count=100, seed=1).accepted != {}


def test_an_unknown_encoding_names_the_choices() -> None:
    with refused(ParamsError, key="packet", got="fp16", expected=["computed", "float16", "int8"]):
        check_encoding("fp16")


def test_a_file_of_another_kind_is_refused() -> None:
    with refused(TensorFileError, key="bytes", got=6):
        read_packet(b"GIF89a", FORM, "computed")
