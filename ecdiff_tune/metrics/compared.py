"""Pictures held against the cloud's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecdiff_tune.ledger import Measurement
from ecdiff_tune.metrics.choice import Metric
from ecdiff_tune.metrics.images import psnr, ssim


def compared(
    latents: Tensor,
    decoded: Tensor,
    cloud: Tensor,
    prompts: Sequence[str],
    seconds: float,
    further: Sequence[Metric] = (),
) -> list[Measurement]:
    """Pictures against the cloud's, one measurement each: what is known of a picture comes from here.

    Args:
        latents: that they were decoded from, of which only whether they are finite matters.
        decoded, cloud: as for ``metrics.images.ssim``.
        prompts: one each.
        seconds: that each took.
        further: metrics beside SSIM and PSNR.
    """
    pictures = torch.nan_to_num(decoded)
    more = {one.name: one.measure(pictures, cloud, prompts).tolist() for one in further}
    # A half-precision decoder can overflow on finite latents.
    finite = [
        bool(torch.isfinite(x).all() and torch.isfinite(y).all())
        for x, y in zip(latents, decoded, strict=True)
    ]
    pairs = zip(ssim(pictures, cloud).tolist(), psnr(pictures, cloud).tolist(), strict=True)
    return [
        Measurement(*pair, seconds, {name: values[i] for name, values in more.items()})
        if finite[i]
        else Measurement(None, None, seconds)
        for i, pair in enumerate(pairs)
    ]
