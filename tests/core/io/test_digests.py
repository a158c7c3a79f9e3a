"""Digests of models in memory, and of files, which are not read again while nothing says they changed."""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ecdiff_core.io import file_digest as files
from ecdiff_core.io.file_digest import cache_path, file_digest
from ecdiff_core.models.tensor_digest import tensor_digest

from ... import small_unets


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    model: UNet2DConditionModel = small_unets.sd_unet()
    return model


def test_any_changed_tensor_shows(unet: UNet2DConditionModel) -> None:
    """By one bit of one value, wherever it is; by name, shape and exchange as well."""
    own = tensor_digest(unet, torch.float32)
    seen = [own]
    for tensor in list(unet.state_dict().values())[::20]:
        bits = tensor.view(-1).view(torch.int32)
        bits[len(bits) // 3] ^= 1
        seen.append(tensor_digest(unet, torch.float32))
        bits[len(bits) // 3] ^= 1
    assert len(set(seen)) == len(seen) > 5
    assert tensor_digest(unet, torch.float32) == own

    def digest(**tensors: torch.Tensor) -> str | None:
        model = nn.Module()
        for name, tensor in tensors.items():
            model.register_buffer(name, tensor)
        return tensor_digest(model, torch.float32)

    one, other = torch.ones(4, 4), torch.zeros(4, 4)
    made = [
        digest(a=one, b=other),
        digest(a=other, b=one),
        digest(a=one, c=other),
        digest(a=one.view(2, 8), b=other),
        digest(a=one),
        digest(a=torch.ones(5), b=torch.zeros(0), c=torch.tensor(3)),
    ]
    assert len(set(made)) == len(made)


def test_neither_memory_format_nor_a_copy_shows(unet: UNet2DConditionModel) -> None:
    own = tensor_digest(unet, torch.float32)
    other = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    assert tensor_digest(other, torch.float32) == own
    odd = nn.Linear(3, 1, bias=False)
    values = torch.randn(7)
    odd.weight.data = values[2:5].view(1, 3)  # begins in the middle of a word
    aligned = nn.Linear(3, 1, bias=False)
    aligned.weight.data = values[2:5].clone().view(1, 3)
    assert tensor_digest(odd, torch.float32) == tensor_digest(aligned, torch.float32)


class Packed(torch.Tensor):
    pass


def test_precisions(unet: UNet2DConditionModel) -> None:
    half = copy.deepcopy(unet).half()
    assert tensor_digest(half, torch.float16) == tensor_digest(unet, torch.float16)
    assert tensor_digest(unet, torch.float16) != tensor_digest(unet, torch.float32)
    assert tensor_digest(half, torch.float32) is None
    assert tensor_digest(half, torch.bfloat16) is None
    assert tensor_digest(copy.deepcopy(unet).to("meta"), torch.float32) is None
    packed = nn.Linear(2, 2)
    packed.register_buffer("packed", torch.ones(2).as_subclass(Packed))  # as quantised weights come
    assert tensor_digest(packed, torch.float32) is None


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth remembering, old enough."""
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "weights.safetensors"
    write(path, b"a")
    return path


def write(path: Path, letter: bytes) -> None:
    path.write_bytes(letter * 2**20)
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read, seen = files._read, []
    monkeypatch.setattr(files, "_read", lambda path: seen.append(path) or read(path))
    monkeypatch.setattr(files, "_SETTLED_SECONDS", -1)
    return seen


def test_a_file_is_read_once(big: Path, reads: list[Path]) -> None:
    first = file_digest(big)
    assert file_digest(big) == first
    link = big.with_name("link")
    link.symlink_to(big)  # as in the hub's cache
    assert file_digest(link) == first
    assert len(reads) == 1
    write(big, b"b")  # the same size and date, as `cp -p` leaves it
    second = file_digest(big)
    assert second != first
    assert file_digest(big) == second
    assert len(reads) == 2


def test_a_file_that_has_just_been_written_is_not_remembered(
    big: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED_SECONDS", 2)
    for _ in range(2):
        file_digest(big)
    assert len(reads) == 2
    assert not (big.parent / "cache").exists()


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", '{"PATH": 3}', '{"PATH": [1, 2]}', '{"PATH": [S, "no"]}']
)
def test_a_damaged_cache_is_none(damage: str, big: Path, reads: list[Path]) -> None:
    path = cache_path()
    assert path is not None
    path.parent.mkdir()
    found = big.stat()
    stamp = f"{found.st_size}, {found.st_mtime_ns}, {found.st_ctime_ns}"
    path.write_text(damage.replace("PATH", str(big)).replace("S", stamp), encoding="utf-8")
    first = file_digest(big)
    assert file_digest(big) == first
    assert len(reads) == 2 - 1
    assert list(json.loads(path.read_text(encoding="utf-8"))) == [str(big)]


@pytest.mark.parametrize("folder", ["", "a file"])
def test_no_place_to_remember(folder: str, big: Path, reads: list[Path], monkeypatch: Any) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, folder and str(big))
    first = file_digest(big)
    assert file_digest(big) == first
    assert len(reads) == 2


def test_files_that_are_gone_are_forgotten(big: Path, reads: list[Path]) -> None:
    file_digest(big)
    other = big.with_name("other")
    write(other, b"c")
    big.unlink()
    file_digest(other)
    path = cache_path()
    assert path is not None
    assert list(json.loads(path.read_text(encoding="utf-8"))) == [str(other)]
