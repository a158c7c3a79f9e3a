"""One training loop for every part: AdamW, warm-up and cosine decay, EMA, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
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


def fit(
    name: str, model: nn.Module, loss: Callable[[int], Tensor], *, folder: Path, steps: int, peak_lr: float
) -> None:
    """Train ``model`` in place to the end and leave its averaged (EMA) weights in it.

    ``loss(step)`` must depend on nothing but the step and the model, so that a run which was stopped
    goes on from ``folder/<name>.pt`` as if it had not been. Prints one line every 50 steps.
    """
    path = folder / f"{name}.pt"
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average = EMAModel(parameters, decay=0.998, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    first = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        average.load_state_dict(kept["average"])
        first = kept["step"]
        print(f"{name}: goes on from step {first} of {steps}", flush=True)

    def save(step: int) -> None:
        part = path.with_suffix(".part")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save({**state, "average": average.state_dict()}, part)
        part.rename(path)

    model.train()
    started = saved = time.monotonic()
    recent: list[float] = []
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_lr)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        recent.append(value.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            mean = sum(recent) / len(recent)
            print(f"{name}: step {step + 1}/{steps}  loss {mean:.5f}  {pace:.2f} s/step", flush=True)
            recent.clear()
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == steps:
            save(step + 1)
            saved = time.monotonic()
    average.copy_to(parameters)
    model.eval()
