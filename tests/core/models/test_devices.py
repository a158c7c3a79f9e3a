"""Devices and precisions by name."""

from __future__ import annotations

import pytest
import torch

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.devices import DTYPES, get_device, get_dtype, synchronize

from ...refusals import refused


def test_devices_by_name() -> None:
    cpu = torch.device("cpu")
    assert get_device("cpu") == get_device(cpu) == cpu
    expected = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    assert get_device(None).type == get_device("auto").type == expected
    synchronize(cpu)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_devices_that_are_not_here(name: str) -> None:
    with refused(ParamsError, key="device", got=name, line="choose from auto, cpu"):
        get_device(name)


def test_dtypes_by_name() -> None:
    assert {name: get_dtype(name) for name in DTYPES} == {
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    with refused(ParamsError, key="dtype", got="fp16", expected=sorted(DTYPES), nearest="float16"):
        get_dtype("fp16")
