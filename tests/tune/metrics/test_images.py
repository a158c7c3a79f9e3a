"""SSIM and PSNR against scikit-image, which shares no code with torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from ecdiff_tune.metrics.images import psnr, ssim

Images = NDArray[np.float32]


def smooth(count: int, height: int, width: int, seed: int) -> Images:
    """Random smooth RGB images that use the whole of 0 … 1, shape (count, height, width, 3)."""
    noise = np.random.default_rng(seed).random((count, height, width, 3))
    blurred = gaussian_filter(noise, sigma=(0, 3, 3, 0))
    low, high = blurred.min(axis=(1, 2, 3), keepdims=True), blurred.max(axis=(1, 2, 3), keepdims=True)
    return ((blurred - low) / (high - low)).astype(np.float32)


def tensor(images: Images) -> Tensor:
    return torch.from_numpy(images).movedim(-1, 1)


def skimage_ssim(one: Images, other: Images) -> float:
    """scikit-image's SSIM with the settings of Wang et al. 2004, over the same windows as torchmetrics.

    torchmetrics mirrors five pixels round an image, so that its map has a value a pixel; scikit-image drops
    the five pixels a side whose windows stick out. Mirrored beforehand, both average the same windows.
    """
    edge = ((5, 5), (5, 5), (0, 0))
    return structural_similarity(
        np.pad(one.astype(np.float64), edge, mode="reflect"),
        np.pad(other.astype(np.float64), edge, mode="reflect"),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=-1,
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 32), (12, 40)])
@pytest.mark.parametrize("amount", [0.02, 0.2, 1.0])
def test_ssim_is_scikit_images(height: int, width: int, amount: float) -> None:
    one = smooth(4, height, width, seed=0)
    other = (1 - amount) * one + amount * smooth(4, height, width, seed=1)
    expected = [skimage_ssim(a, b) for a, b in zip(one, other, strict=True)]
    found = ssim(tensor(one), tensor(other))
    assert found.shape == (4,)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("amount", [0.001, 0.2, 1.0])
def test_psnr_is_scikit_images(amount: float) -> None:
    one = smooth(4, 40, 24, seed=0)
    other = (1 - amount) * one + amount * smooth(4, 40, 24, seed=1)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(psnr(tensor(one), tensor(other)).numpy(), expected, atol=1e-3)


def test_equal_images() -> None:
    images = tensor(smooth(3, 32, 32, seed=0))
    np.testing.assert_allclose(ssim(images, images).numpy(), 1.0, atol=1e-6)
    assert psnr(images, images).tolist() == [float("inf")] * 3


def test_psnr_by_hand() -> None:
    black = torch.zeros(1, 3, 16, 16)
    assert psnr(black, black + 0.1).item() == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize(("one", "other"), [(0.5, 0.5), (0.2, 0.6), (0.0, 1.0)])
def test_ssim_of_flat_images_by_hand(one: float, other: float) -> None:
    # Without variance eq. 32 is its first factor, C1 = 0.01². In float32 a variance of 0 is off by some 1e-7,
    # which C2 = 0.03² below it makes 1e-4.
    expected = (2 * one * other + 1e-4) / (one**2 + other**2 + 1e-4)
    black = torch.zeros(1, 3, 16, 16)
    assert ssim(black + one, black + other).item() == pytest.approx(expected, abs=2e-4)


def test_images_of_a_batch_are_measured_apart() -> None:
    # torchmetrics' own PSNR pools the batch, and its SSIM may take the range from the data.
    one, other = tensor(smooth(3, 32, 32, seed=0)), tensor(smooth(3, 32, 32, seed=1))
    one[1] *= 0.1
    other[2] = one[2]
    for metric in (ssim, psnr):
        alone = torch.cat([metric(one[i : i + 1], other[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(metric(one, other), alone, atol=1e-5, rtol=1e-5)


def test_the_range_is_not_taken_from_the_images() -> None:
    dim, other = tensor(smooth(1, 32, 32, seed=0)) * 0.1, tensor(smooth(1, 32, 32, seed=1)) * 0.1
    expected = skimage_ssim(dim[0].movedim(0, -1).numpy(), other[0].movedim(0, -1).numpy())
    assert ssim(dim, other).item() == pytest.approx(expected, abs=1e-5)
    assert expected > ssim(10 * dim, 10 * other).item() + 0.1


def test_half_precision_is_measured_in_single() -> None:
    one, other = tensor(smooth(2, 32, 32, seed=0)).half(), tensor(smooth(2, 32, 32, seed=1)).half()
    for metric in (ssim, psnr):
        assert metric(one, other).dtype == torch.float32
        torch.testing.assert_close(metric(one, other), metric(one.float(), other.float()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((2, 3, 16, 16), (1, 3, 16, 16)),
        ((3, 16, 16), (3, 16, 16)),
        ((1, 1, 16, 16), (1, 1, 16, 16)),
        ((1, 16, 16, 3), (1, 16, 16, 3)),
        ((1, 3, 4, 16, 16), (1, 3, 4, 16, 16)),
    ],
)
def test_other_shapes_are_refused(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    for metric in (ssim, psnr):
        with pytest.raises(ValueError, match=r"shape \(n, 3, height, width\), got \(.*\) and \(.*\)"):
            metric(torch.zeros(one), torch.zeros(other))
