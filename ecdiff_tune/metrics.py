"""How near a picture is to the cloud's, picture by picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def ssim(pictures: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (EC-Diff eq. 32), -1 … 1, 1 is equal.

    Args:
        pictures, reference: RGB in 0 … 1, shape (n, 3, height, width), at least 11 pixels a side.

    Returns:
        One value a picture, shape (n,), float32.
    """
    _check(pictures, reference)
    value = structural_similarity_index_measure(
        pictures.float(), reference.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(value, Tensor)
    return value


def psnr(pictures: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (EC-Diff eq. 30); infinite where the pictures are equal.

    Args and shapes as ``ssim``.
    """
    _check(pictures, reference)
    values = [
        peak_signal_noise_ratio(one.float(), other.float(), data_range=1.0)
        for one, other in zip(pictures, reference, strict=True)
    ]
    return torch.stack(values)


def _check(pictures: Tensor, reference: Tensor) -> None:
    if pictures.shape != reference.shape or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(
            f"Expected two batches of shape (n, 3, height, width), got {tuple(pictures.shape)} and "
            f"{tuple(reference.shape)}."
        )
