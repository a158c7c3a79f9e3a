"""Trains the video autoencoder that both models of the pair share."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from shapes_pair.fit import autocast, fit
from shapes_pair.train_vae import KL_WEIGHT


def to_input(clips: Tensor, device: torch.device) -> Tensor:
    """Clips (n, 9, 64, 64, 3), 0 … 255, as the model's input (n, 3, 9, 64, 64), -1 … 1."""
    return clips.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def train_vae(
    vae: AutoencoderKLCogVideoX, clips: Tensor, *, folder: Path, steps: int, batch: int, peak_lr: float
) -> None:
    """Reconstruct the clips (squared and absolute error, a small KL term)."""
    device = next(vae.parameters()).device
    for parameter in vae.parameters():
        if parameter.dim() == 5:  # accelerators convolve these faster
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def loss(step: int) -> Tensor:
        torch.manual_seed(step)
        target = to_input(clips[torch.randint(len(clips), (batch,)).to(clips.device)], device)
        with autocast(device):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        difference = output.float() - target
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return difference.square().mean() + 0.05 * difference.abs().mean() + KL_WEIGHT * kl

    fit("vae", vae, loss, folder=folder, steps=steps, peak_lr=peak_lr)


@torch.no_grad()
def encode(vae: AutoencoderKLCogVideoX, clips: Tensor, batch: int = 64) -> Tensor:
    """Unscaled latent means, shape (n, latent frames, channels, 16, 16), float16, on the clips' device."""
    device = next(vae.parameters()).device
    parts = []
    for some in tqdm(clips.split(batch), desc="encode", mininterval=5):
        with autocast(device):
            mean = vae.encode(to_input(some, device)).latent_dist.mean
        parts.append(mean.permute(0, 2, 1, 3, 4).half().to(clips.device))
    return torch.cat(parts)


@torch.no_grad()
def decode(vae: AutoencoderKLCogVideoX, latents: Tensor, batch: int = 32) -> Tensor:
    """Unscaled latents as clips (n, 9, 3, 64, 64), 0 … 1, float32, on the CPU."""
    parts = [vae.decode(some.permute(0, 2, 1, 3, 4)).sample.cpu() for some in latents.float().split(batch)]
    return (torch.cat(parts).float().permute(0, 2, 1, 3, 4) / 2 + 0.5).clamp(0, 1)


def reconstruction_psnr(vae: AutoencoderKLCogVideoX, clips: Tensor) -> float:
    """Mean PSNR in dB of encode-decode over clips."""
    target = to_input(clips, torch.device("cpu")).permute(0, 2, 1, 3, 4) / 2 + 0.5
    latents = encode(vae, clips).to(next(vae.parameters()).device)
    error = functional.mse_loss(decode(vae, latents), target, reduction="none").mean(dim=(1, 2, 3, 4))
    return (-10 * torch.log10(error)).mean().item()
