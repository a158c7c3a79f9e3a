"""Images held against the cloud's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecdiff_tune.evaluation.image_faults import fault
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.metrics.metric import PSNR, SSIM, Metric, measure


def compared(
    latents: Tensor,
    decoded: Tensor,
    cloud: Tensor,
    prompts: Sequence[str],
    seconds: float,
    extra: Sequence[Metric] = (),
) -> list[Measurement]:
    """Images against the cloud's, one measurement each: what is known of an image comes from here.

    Args:
        latents: that they were decoded from, of which only whether they are finite matters.
        decoded, cloud: as for ``metrics.images.ssim``; nothing is compared with a ``cloud`` that has a fault.
        prompts: one each.
        seconds: that each took.
        extra: metrics beside SSIM and PSNR.
    """
    found = measure((SSIM, PSNR, *extra), decoded, cloud, prompts)
    measurements = []
    for latent, reference, *values in zip(latents, cloud, *found.values(), strict=True):
        # A half-precision decoder can overflow on finite latents.
        known = {name: value for name, value in zip(found, values, strict=True) if value is not None}
        if len(known) == len(found) and torch.isfinite(latent).all() and not fault(reference):
            measurements.append(Measurement(known.pop("ssim"), known.pop("psnr"), seconds, known))
        else:
            measurements.append(Measurement(None, None, seconds))
    return measurements
