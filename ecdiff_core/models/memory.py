"""How models share a device's memory, and what happens when it is not enough."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from ecdiff_core.errors import ECDiffError, ParamsError, first_line
from ecdiff_core.io.text import counted
from ecdiff_core.validation import check_fields

Offload = Literal["none", "model", "sequential"]
"""``model`` keeps one model at a time on the device, ``sequential`` one layer at a time (slow)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """What to do without for memory.

    Args:
        offload: where models wait while they are not in use.
        vae_slicing: decode one image of a batch at a time.
        vae_tiling: decode an image tile by tile, which changes it a little where tiles meet.

    Raises:
        ParamsError: the offload is unknown.
    """

    offload: Offload = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        check_fields(self, ParamsError)


class OutOfMemoryError(ECDiffError):
    """Not even one prompt at a time fits into the device's memory."""


def place(models: Sequence[nn.Module], vae: Any, device: torch.device, memory: Memory) -> None:
    """Put models on a device as ``memory`` says.

    Raises:
        ParamsError: offload without an accelerator, or the autoencoder cannot decode in parts.
    """
    check_offload(memory, device)
    for wanted, method in ((memory.vae_slicing, "enable_slicing"), (memory.vae_tiling, "enable_tiling")):
        if wanted and not hasattr(vae, method):
            key, name = f"vae_{method.removeprefix('enable_')}", type(vae).__name__
            raise ParamsError(f"{name} has no {method}: leave {key} out.", key=key, got=name)
        if wanted:
            getattr(vae, method)()
    if memory.offload == "model":
        one_at_a_time(models, device)
    elif memory.offload == "sequential":
        for model in models:
            cpu_offload(model, device, offload_buffers=len(model._parameters) > 0)
    else:
        for model in models:
            model.to(device)


def check_offload(memory: Memory | None, device: torch.device) -> None:
    """Whether a device can do what ``memory`` says.

    Raises:
        ParamsError: offload without an accelerator.
    """
    if memory is not None and memory.offload != "none" and device.type == "cpu":
        raise ParamsError(
            f"offload={memory.offload} needs an accelerator, and the device is the CPU.",
            key="offload",
            got=memory.offload,
            expected="none",
            advice="Leave it out.",
        )


def one_at_a_time(models: Sequence[nn.Module], device: torch.device) -> None:
    """Let each model come to the device when it is called, and the one that was there leave it."""
    hook = _OneAtATime(device)
    for model in models:
        add_hook_to_module(model, hook)


class _OneAtATime(ModelHook):
    """One for all models. accelerate's CpuOffload sends away one fixed model, which plans may leave out."""

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device
        self._there: nn.Module | None = None

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module.to("cpu")

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if module is not self._there:
            if self._there is not None:
                self._there.to("cpu")
                self._there = None  # also when the next line runs out of memory
                free()
            module.to(self.execution_device)
            self._there = module
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


def free() -> None:
    """Give back to the device what nothing uses."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let the process keep what tensors on the CPU leave free, for the next ones (glibc alone).

    glibc maps every large block anew and unmaps it when it is freed, and the system fills it with zeros each
    time. For a process that does little but call models on the CPU that is about a tenth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**27)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the CPU's allocator) had no memory left."""
    known = ("can't allocate memory", "out of memory")  # the CPU's and, of no class of its own, MPS's
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and (should_reduce_batch_size(error) or any(words in str(error) for words in known))
    )


class Batches:
    """Does work batch by batch; when memory runs out, in smaller ones from then on.

    Args:
        size: of a batch, at least 1; ``size`` tells it afterwards.
        log: called with a line when the size changes.
    """

    def __init__(self, size: int, log: Callable[[str], None] = lambda _: None) -> None:
        self.size = size
        self._log = log

    def over(
        self, rows: Sequence[int], work: Callable[[Sequence[int]], T]
    ) -> Iterator[tuple[Sequence[int], T]]:
        """``work`` over all rows, with the rows that each result belongs to.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """
        first = 0
        while first < len(rows):
            batch = rows[first : first + self.size]
            result = self._try(batch, work)
            if result is not None:
                yield batch, result[0]
                first += len(batch)

    def _try(self, batch: Sequence[int], work: Callable[[Sequence[int]], T]) -> tuple[T] | None:
        """The result; None where memory ran out, when the batches have become smaller."""
        try:
            return (work(batch),)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise _too_little(error) from error
        # Here, not above: the exception holds every tensor of the failed batch.
        free()
        self.size = max(1, len(batch) // 2)
        self._log(f"out of memory with {counted(len(batch), 'prompt')} at a time: going on with {self.size}")
        return None


@contextmanager
def out_of_memory_as_error() -> Iterator[None]:
    """Running out of memory as one line that says what was needed and what to set."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little(error) from error


def _too_little(error: BaseException) -> OutOfMemoryError:
    found = first_line(error)
    return OutOfMemoryError(
        f"Out of memory with one prompt at a time ({found}).",
        key="memory",
        got=found,
        advice="Set offload to model, turn vae_tiling on, or choose half precision or a smaller size; "
        "offload sequential takes least memory and most time.",
    )
