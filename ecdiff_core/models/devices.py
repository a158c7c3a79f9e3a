"""Where and in which precision to compute."""

from __future__ import annotations

import platform

import torch

from ecdiff_core.errors import ParamsError, nearest

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def get_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; for None or "auto" the machine's accelerator, else the CPU.

    Raises:
        ParamsError: this machine has no such device.
    """
    if name in (None, "auto"):
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = [found.type] if (found := torch.accelerator.current_accelerator(check_available=True)) else []
        choices = ["auto", "cpu", *here]
        raise ParamsError(
            f"Cannot use the device {str(name)!r} here: {nearest(str(name), choices)}. "
            "auto takes what this machine has.",
            key="device",
            got=str(name),
            expected=choices,
        ) from error
    return device


def device_of_tensors(name: str) -> str:
    """The name that tensors on that device give it: ``cuda:0`` for ``cuda``, and that of what ``auto`` takes.

    Raises:
        ParamsError: this machine has no such device.

    >>> device_of_tensors("cpu")
    'cpu'
    """
    return str(torch.empty(0, device=get_device(name)).device)


def dtype_name(dtype: str | torch.dtype) -> str:
    """The name of a torch dtype; a name is one itself.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def get_dtype(name: str) -> torch.dtype:
    """The torch dtype of that name.

    Raises:
        ParamsError: it is none that models run in.
    """
    if name not in DTYPES:
        raise ParamsError.unknown("dtype", name, DTYPES)
    return DTYPES[name]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything queued, so that a clock can be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: torch.device) -> str:
    """The hardware in words: what seconds belong to."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
