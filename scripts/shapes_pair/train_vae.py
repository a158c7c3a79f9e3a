"""Trains the autoencoder that both models of the pair share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from shapes_pair.fit import autocast, fit

KL_WEIGHT = 1e-6


def to_input(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Images (n, 64, 64, 3), 0 … 255, as the model's input (n, 3, 64, 64), -1 … 1."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(
    vae: AutoencoderKL, images: NDArray[np.uint8], *, folder: Path, steps: int, batch: int = 32
) -> None:
    """Reconstruct the images (squared and absolute error, a small KL term); then set the scaling."""
    device = next(vae.parameters()).device

    def loss(step: int) -> Tensor:
        rows = np.random.default_rng((11, step)).integers(len(images), size=batch)
        target = to_input(images[np.sort(rows)], device)
        torch.manual_seed(step)
        with autocast(device):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        difference = output.float() - target
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return difference.square().mean() + 0.05 * difference.abs().mean() + KL_WEIGHT * kl

    fit("vae", vae, loss, folder=folder, steps=steps, peak_lr=2e-3)
    spread = encode(vae, images[:2048]).std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))


@torch.no_grad()
def encode(vae: AutoencoderKL, images: NDArray[np.uint8]) -> Tensor:
    """Unscaled latent means of the images, shape (n, 4, 16, 16), on the CPU."""
    device = next(vae.parameters()).device
    parts = []
    for start in tqdm(range(0, len(images), 128), desc="encode", mininterval=5):
        with autocast(device):
            parts.append(
                vae.encode(to_input(images[start : start + 128], device)).latent_dist.mean.float().cpu()
            )
    return torch.cat(parts)


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: NDArray[np.uint8]) -> float:
    """Mean PSNR in dB of encode-decode over images, in float32."""
    device = next(vae.parameters()).device
    values = []
    for start in range(0, len(images), 64):
        target = to_input(images[start : start + 64], device)
        output = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        error = functional.mse_loss(output, target, reduction="none").mean(dim=(1, 2, 3)) / 4
        values.append(-10 * torch.log10(error))
    return torch.cat(values).mean().item()
