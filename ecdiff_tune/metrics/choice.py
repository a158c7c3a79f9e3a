"""Which metrics images are measured by; imports none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

METRICS = ("ssim", "psnr", "lpips", "clip")
"""What images can be measured by."""
LPIPS_NETS = ("alex", "vgg")
"""What LPIPS can go by."""


@dataclass(frozen=True)
class MetricChoice:
    """Which metrics, and where the networks of some are.

    Args:
        names: of ``METRICS``.
        lpips_net: of ``LPIPS_NETS``.
        lpips_weights: a file of torchvision's; None is the one in torch's own cache.
        clip: folder of a CLIP model as transformers saves it; for the metric ``clip``.
    """

    names: Sequence[str] = ("ssim", "psnr")
    lpips_net: str = "alex"
    lpips_weights: str | None = None
    clip: str | None = None
