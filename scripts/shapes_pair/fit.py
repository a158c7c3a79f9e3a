"""One training loop for every part: AdamW, warm-up and cosine decay, EMA, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 100
CHECKPOINT_SECONDS = 60.0
LOG_EVERY = 50


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it; processors that emulate it take twenty times as long."""
    native = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine from ``peak`` down to 1% of it."""
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Average:
    """The exponential moving average of parameters; early on it forgets faster (power 0.75)."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after ``step``, counted from 0."""
        kept = min(self.decay, 1 - (step + 1) ** -0.75)
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - kept)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Leave the average in the parameters."""
        torch._foreach_copy_(self.parameters, self.values)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    average_decay: float = 0.998,
) -> None:
    """Train ``model`` in place to the end and leave its averaged (EMA) weights in it.

    ``loss(step)`` must depend on nothing but the step and the model, so that a run which was stopped
    goes on from ``folder/<name>.pt`` as if it had not been. Prints one line every 50 steps.
    """
    path = folder / f"{name}.pt"
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average = Average(parameters, average_decay)
    first = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        average.values = [v.to(p) for v, p in zip(kept["average"], parameters, strict=True)]
        first = kept["step"]
        print(f"{name}: goes on from step {first} of {steps}", flush=True)

    def save(step: int) -> None:
        part = path.with_suffix(".part")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save({**state, "average": average.values, "names": names}, part)
        part.rename(path)

    model.train()
    started = saved = time.monotonic()
    recent: list[Tensor] = []  # read when printed only: reading waits for the device
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_lr)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        recent.append(value.detach())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            mean = torch.stack(recent).mean().item()
            print(f"{name}: step {step + 1}/{steps}  loss {mean:.5f}  {pace:.2f} s/step", flush=True)
            recent.clear()
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == steps:
            save(step + 1)
            saved = time.monotonic()
    average.copy_to_parameters()
    model.eval()
