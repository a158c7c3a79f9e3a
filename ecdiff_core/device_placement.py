"""Where a pipeline's models are, changed by the names that diffusers has for it."""

from __future__ import annotations

from typing import Self

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.models.devices import dtype_name, get_device
from ecdiff_core.models.memory import Memory, Offload, out_of_memory_as_error, place
from ecdiff_core.models.pair import Pair


class Placed:
    """A pipeline whose pair can be moved."""

    pair: Pair
    config: TunedConfig

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.pair.family.device

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move all models to a device; returns the pipeline itself, as diffusers does.

        Raises:
            ParamsError: another dtype than the models', models that offload moves, or no such device.
            OutOfMemoryError: the models do not fit.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        own = self.config.sampling.dtype
        if dtype is not None and dtype_name(dtype) != own:
            other = dtype_name(dtype)
            raise ParamsError(
                f"The models were loaded in {own}: load them with "
                f"ECDiffPipeline.from_config(config, dtype={other!r}), not .to({dtype}).",
                key="dtype",
                got=other,
                expected=own,
            )
        if device is not None:
            if self.is_offloaded:
                line = "Offload moves the models: load them without it, or leave .to() out."
                raise ParamsError(line, key="device", got=str(device), expected="none")
            self._place(get_device(device), Memory())
        return self

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Keep one model at a time on the device, as diffusers does; ``memory=Memory("model")`` from then on.

        Raises:
            ParamsError: there is no accelerator, or no such device.
        """
        self._offload("model", gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Keep one layer at a time on the device (slow); raises as ``enable_model_cpu_offload``."""
        self._offload("sequential", gpu_id, device)

    def _offload(self, kind: Offload, gpu_id: int | None, device: str | torch.device | None) -> None:
        there = get_device(f"cuda:{gpu_id}" if device is None and gpu_id is not None else device)
        if self.is_offloaded:
            for model in self._models:
                remove_hook_from_module(model, recurse=True)
        self._place(there, Memory(kind))

    def _place(self, device: torch.device, memory: Memory) -> None:
        with out_of_memory_as_error():
            place(self._models, self.pair.family.vae, device, memory)

    @property
    def _models(self) -> list[nn.Module]:
        return [*self.pair.family.models, self.pair.edge]

    @property
    def is_offloaded(self) -> bool:
        """Whether the models are moved to the device when they are called."""
        return any(hasattr(model, "_hf_hook") for model in self._models)
