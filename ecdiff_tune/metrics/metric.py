"""The metrics that settings name, loaded once, and a set of images measured by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ecdiff_tune.metrics.choice import MetricChoice
from ecdiff_tune.metrics.images import psnr, ssim

Measure = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""Images, the cloud's images, prompts -> one value a prompt."""


@dataclass(frozen=True)
class Metric:
    """A way to measure images.

    Args:
        name: in ``metrics.names``.
        heading: in tables.
        measure: images, the cloud's, their prompts -> one value a prompt.
    """

    name: str
    heading: str
    measure: Measure


SSIM = Metric("ssim", "SSIM", lambda images, cloud, prompts: ssim(images, cloud))
PSNR = Metric("psnr", "PSNR, dB", lambda images, cloud, prompts: psnr(images, cloud))


def load_metrics(chosen: MetricChoice, device: torch.device | str = "cpu") -> tuple[Metric, ...]:
    """The metrics of ``metrics.names``, in that order, their networks on a device.

    Raises:
        MetricError: the weights or the model of one are missing; nothing has been measured then.
    """
    loaders = {"ssim": lambda *_: SSIM, "psnr": lambda *_: PSNR, "lpips": _lpips, "clip": _clip}
    return tuple(loaders[name](chosen, device) for name in chosen.names)


def measure(
    metrics: Sequence[Metric], images: Tensor, cloud: Tensor, prompts: Sequence[str]
) -> dict[str, list[float | None]]:
    """Every metric's values by its name, one a prompt; None where an image is not finite.

    Args:
        images, cloud: RGB in 0 … 1, shape (n, 3, height, width), of videos (n, frames, 3, height, width).
        prompts: one an image or video.
    """
    finite = [bool(torch.isfinite(one).all()) for one in images]
    shown = torch.nan_to_num(images.float())
    found = {one.name: one.measure(shown, cloud.float(), prompts).tolist() for one in metrics}
    return {
        name: [value if ok else None for value, ok in zip(values, finite, strict=True)]
        for name, values in found.items()
    }


def _lpips(chosen: MetricChoice, device: torch.device | str) -> Metric:
    from ecdiff_tune.metrics.lpips import LPIPS

    weights = None if chosen.lpips_weights is None else Path(chosen.lpips_weights).expanduser()
    distance = LPIPS(chosen.lpips_net, weights, device)
    return Metric("lpips", "LPIPS", lambda images, cloud, prompts: distance(images, cloud))


def _clip(chosen: MetricChoice, device: torch.device | str) -> Metric:
    from ecdiff_tune.metrics.clip_score import CLIPScore

    score = CLIPScore(Path(chosen.clip or "").expanduser(), device)
    return Metric("clip", "CLIP score", lambda images, cloud, prompts: score(images, prompts))
