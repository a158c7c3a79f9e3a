"""How near an image or video is to the cloud's, one by one: what needs no weights.

A video's value is the mean of its frames' values; of PSNR that is a mean of decibels, not one pooled error.
``choice`` puts these and the metrics of trained networks together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ecdiff_core.errors import ECDiffError


class MetricError(ECDiffError):
    """A metric's weights or model are missing, or the images are not what it can measure."""


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (EC-Diff eq. 32), -1 … 1, 1 is equal.

    Args:
        images, reference: RGB in 0 … 1, shape (n, 3, height, width), of videos
            (n, frames, 3, height, width); at least 11 pixels a side.

    Returns:
        One value an image or video, shape (n,), float32.
    """
    check_shapes(images, reference)
    if images.ndim == 5:
        return frame_means(ssim, images, reference)
    value = structural_similarity_index_measure(
        images.float(), reference.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(value, Tensor)
    return value


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (EC-Diff eq. 30).

    Infinite where the images, or one frame of the videos, are equal.

    Args and shapes as ``ssim``.
    """
    check_shapes(images, reference)
    if images.ndim == 5:
        return frame_means(psnr, images, reference)
    values = [
        peak_signal_noise_ratio(one.float(), other.float(), data_range=1.0)
        for one, other in zip(images, reference, strict=True)
    ]
    return torch.stack(values)


def frame_means(metric: Callable[[Tensor, Tensor], Tensor], videos: Tensor, reference: Tensor) -> Tensor:
    """The metric's mean over frames, video by video, which bounds the memory it takes.

    Args:
        metric: of images, (n, 3, height, width) twice to (n,).
        videos, reference: (n, frames, 3, height, width).

    Returns:
        One value a video, shape (n,).
    """
    return torch.stack([metric(one, other).mean() for one, other in zip(videos, reference, strict=True)])


def check_shapes(images: Tensor, reference: Tensor) -> None:
    """Raise ValueError but for two equal shapes (n, 3, height, width) or (n, frames, 3, height, width)."""
    if images.shape != reference.shape or images.ndim not in (4, 5) or images.shape[-3] != 3:
        raise ValueError(
            f"Expected two batches of shape (n, 3, height, width), got {tuple(images.shape)} and "
            f"{tuple(reference.shape)}. Of videos the shape is (n, frames, 3, height, width)."
        )
