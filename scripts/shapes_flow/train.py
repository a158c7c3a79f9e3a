"""Trains the cloud transformer with its text encoders by flow matching, then distils the edge transformer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModelWithProjection

from shapes_flow.models import SHIFT
from shapes_pair.fit import autocast, fit

CAPTION_DROP = 0.1
AVERAGE_DECAY = 0.9995
THIRD_TOKENS = 256
"""Zeros that StableDiffusion3Pipeline puts in the place of a third text encoder's embeddings."""


@dataclass(frozen=True)
class TrainingData:
    """Scaled latents (n, 4, 16, 16), token ids (n, 32), those of "" (1, 32), each scene's frequency (n,)."""

    latents: Tensor
    token_ids: Tensor
    empty_ids: Tensor
    frequency: Tensor


@dataclass(frozen=True)
class Batch:
    """Latents on the straight line from clean to noise, and the velocity along it."""

    noisy: Tensor
    velocity: Tensor
    timesteps: Tensor
    token_ids: Tensor


class TextEncoders(nn.Module):
    """Both CLIP encoders, read as Stable Diffusion 3 reads them; zeros stand for the third."""

    def __init__(self, *encoders: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings (n, 32 + 256, width), the latter 256 of them zeros, and pooled ones (n, width)."""
        outputs = [encoder(token_ids, output_hidden_states=True) for encoder in self.encoders]
        embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        return functional.pad(embeds, (0, 0, 0, THIRD_TOKENS)), pooled


def noisy_batch(data: TrainingData, seed: int, size: int) -> Batch:
    """A batch by seed. Its times are spread evenly before the shift towards noise that sampling makes too."""
    device = data.latents.device
    rng = torch.Generator(device).manual_seed(seed)
    rows = torch.multinomial(data.frequency, size, replacement=True, generator=rng)
    # One time from each of `size` equal ranges: lower variance than independent draws.
    times = (torch.arange(size, device=device) + torch.rand(size, device=device, generator=rng)) / size
    sigmas = SHIFT * times / (1 + (SHIFT - 1) * times)
    clean = data.latents[rows].float()
    noise = torch.randn(clean.shape, device=device, generator=rng)
    dropped = torch.rand(size, 1, device=device, generator=rng) < CAPTION_DROP
    token_ids = torch.where(dropped, data.empty_ids, data.token_ids[rows])
    at = sigmas.view(-1, 1, 1, 1)
    return Batch((1 - at) * clean + at * noise, noise - clean, 1000 * sigmas, token_ids)


def ask(model: SD3Transformer2DModel, batch: Batch, embeds: Tensor, pooled: Tensor) -> Tensor:
    """The model's velocity."""
    return model(batch.noisy, embeds, pooled, batch.timesteps, return_dict=False)[0].float()


def train_cloud(
    cloud: SD3Transformer2DModel,
    encoders: TextEncoders,
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int,
) -> None:
    """Train transformer and text encoders to predict the velocity."""

    def loss(step: int) -> Tensor:
        some = noisy_batch(data, 1_000_000 + step, batch)
        with autocast(some.noisy.device):
            output = ask(cloud, some, *encoders(some.token_ids))
        return functional.mse_loss(output, some.velocity)

    both = nn.ModuleDict({"transformer": cloud, "encoders": encoders})
    fit("cloud", both, loss, folder=folder, steps=steps, peak_lr=peak_lr, average_decay=AVERAGE_DECAY)


def train_edge(
    edge: SD3Transformer2DModel,
    cloud: SD3Transformer2DModel,
    encoders: TextEncoders,
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int,
) -> None:
    """Distil: the task's loss and the cloud's answer."""
    cloud.requires_grad_(False)
    encoders.requires_grad_(False)

    def loss(step: int) -> Tensor:
        some = noisy_batch(data, 2_000_000 + step, batch)
        with autocast(some.noisy.device):
            with torch.no_grad():
                text = encoders(some.token_ids)
                taught = ask(cloud, some, *text)
            output = ask(edge, some, *text)
        return functional.mse_loss(output, some.velocity) + functional.mse_loss(output, taught)

    fit("edge", edge, loss, folder=folder, steps=steps, peak_lr=peak_lr, average_decay=AVERAGE_DECAY)
