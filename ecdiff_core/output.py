"""What a generation gives back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecdiff_core.models.devices import synchronize
from ecdiff_core.sampling.plan import Plan


@dataclass(frozen=True)
class Seconds:
    """Where the time of a generation went.

    The cloud's part is the steps that its machine does when there are two (``Plan.on_cloud``).
    """

    encode: float
    cloud: float
    edge: float
    decode: float

    @property
    def total(self) -> float:
        """All four together."""
        return self.encode + self.cloud + self.edge + self.decode


@dataclass(frozen=True)
class ECDiffOutput:
    """What a call made.

    Args:
        images: a PIL image a prompt; of a video family a list of frames a prompt. Of other output types an
            array (``np``) or a tensor (``pt``, ``latent``).
        plan: what every step did.
        seconds: where the time went.
        latents: what the images were decoded from, (batch, channels, …).
    """

    images: Any
    plan: Plan
    seconds: Seconds
    latents: Tensor


class Clock:
    """Seconds since the last lap, with the device's queue emptied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.lap()

    def lap(self) -> float:
        synchronize(self._device)
        now = time.perf_counter()
        passed, self._last = now - getattr(self, "_last", now), now
        return passed
