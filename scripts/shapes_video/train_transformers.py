"""Trains the cloud transformer with its text encoder, then distils the edge transformer from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5EncoderModel

from ecdiff_core.models.handoff import NoiseSchedule, from_epsilon_and_z, to_epsilon_and_z
from shapes_pair.fit import autocast, fit
from shapes_video.models import LATENT_FRAMES, LATENT_SIDE

CAPTION_DROP = 0.1
AVERAGE_DECAY = 0.9995


@dataclass(frozen=True)
class TrainingData:
    """Unscaled latents (n, 3, 8, 16, 16), token ids (n, 24) and those of "" (1, 24), on one device."""

    latents: Tensor
    token_ids: Tensor
    empty_ids: Tensor


def rotary(model: CogVideoXTransformer3DModel, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The rotary embeddings of the pair's clips for a model that wants them."""
    if not model.config.use_rotary_positional_embeddings:
        return None
    side = LATENT_SIDE // model.config.patch_size
    return get_3d_rotary_pos_embed(
        model.config.attention_head_dim,
        crops_coords=((0, 0), (side, side)),
        grid_size=(side, side),
        temporal_size=LATENT_FRAMES,
        device=device,
    )


def caller(model: CogVideoXTransformer3DModel, device: torch.device) -> Callable[..., Tensor]:
    """The model as a function of latents, embeddings and timesteps."""
    positions = rotary(model, device)

    def call(latents: Tensor, embeds: Tensor, timesteps: Tensor) -> Tensor:
        return model(latents, embeds, timesteps, image_rotary_emb=positions, return_dict=False)[0].float()

    return call


@dataclass(frozen=True)
class Emphasis:
    """``share`` of a batch is drawn from ``low`` … ``high`` of the timesteps, the rest from all of them."""

    share: float
    low: float
    high: float

    def places(self, even: Tensor) -> Tensor:
        """Places in 0 … 1 among the timesteps from places that are spread evenly over 0 … 1."""
        inside = self.low + (self.high - self.low) * even / self.share
        return torch.where(even < self.share, inside, (even - self.share) / (1 - self.share))


# What moves where is decided while hardly anything can be seen. The edge takes over when that is done.
CLOUD_EMPHASIS = Emphasis(0.4, 0.7, 1.0)
EDGE_EMPHASIS = Emphasis(0.6, 0.0, 0.25)


@dataclass(frozen=True)
class Batch:
    """Noisy latents in the units of a schedule, and what they were made of."""

    noisy: Tensor
    noise: Tensor
    z: Tensor
    timesteps: Tensor
    abar: Tensor
    token_ids: Tensor

    def velocity(self, schedule: NoiseSchedule) -> Tensor:
        """The v that the schedule's model should answer with."""
        return from_epsilon_and_z(schedule, self.noise, self.z, self.abar)


def noisy_batch(
    data: TrainingData, schedule: NoiseSchedule, abar: Tensor, emphasis: Emphasis, seed: int, size: int
) -> Batch:
    """A batch by seed; ``abar`` is the schedule's, on the data's device."""
    device = data.latents.device
    rng = torch.Generator(device).manual_seed(seed)
    rows = torch.randint(len(data.latents), (size,), device=device, generator=rng)
    # One place from each of `size` equal ranges: lower variance than independent draws.
    even = (torch.arange(size, device=device) + torch.rand(size, device=device, generator=rng)) / size
    timesteps = (emphasis.places(even) * len(abar)).long().clamp(max=len(abar) - 1)
    z = data.latents[rows].float()
    noise = torch.randn(z.shape, device=device, generator=rng)
    at = abar[timesteps].view(-1, 1, 1, 1, 1)
    dropped = torch.rand(size, 1, device=device, generator=rng) < CAPTION_DROP
    token_ids = torch.where(dropped, data.empty_ids, data.token_ids[rows])
    noisy = at**0.5 * schedule.scaling_factor * z + (1 - at) ** 0.5 * noise
    return Batch(noisy, noise, z, timesteps, at, token_ids)


def train_cloud(
    cloud: CogVideoXTransformer3DModel,
    encoder: T5EncoderModel,
    schedule: NoiseSchedule,
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int,
    average_decay: float = AVERAGE_DECAY,
) -> None:
    """Train transformer and text encoder to predict v."""
    device = data.latents.device
    abar, call = schedule.alphas_cumprod.float().to(device), caller(cloud, device)

    def loss(step: int) -> Tensor:
        some = noisy_batch(data, schedule, abar, CLOUD_EMPHASIS, 1_000_000 + step, batch)
        with autocast(device):
            output = call(some.noisy, encoder(some.token_ids)[0], some.timesteps)
        return functional.mse_loss(output, some.velocity(schedule))

    both = nn.ModuleDict({"transformer": cloud, "encoder": encoder})
    fit("cloud", both, loss, folder=folder, steps=steps, peak_lr=peak_lr, average_decay=average_decay)


def train_edge(
    edge: CogVideoXTransformer3DModel,
    cloud: CogVideoXTransformer3DModel,
    encoder: T5EncoderModel,
    schedules: tuple[NoiseSchedule, NoiseSchedule],
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int,
    average_decay: float = AVERAGE_DECAY,
) -> None:
    """Distil: the task's loss, and the cloud's answer to the same noisy clip in the edge's units.

    Args:
        schedules: the cloud's and the edge's.
    """
    device = data.latents.device
    ours, theirs = schedules
    abar = theirs.alphas_cumprod.float().to(device)
    alike = [ours.timestep_like(theirs, t) for t in range(len(abar))]
    cloud_timesteps = torch.tensor(alike, device=device)
    cloud_abar = torch.tensor([ours.abar(t) for t in alike], device=device)
    call, ask = caller(edge, device), caller(cloud, device)
    cloud.requires_grad_(False)
    encoder.requires_grad_(False)

    def loss(step: int) -> Tensor:
        some = noisy_batch(data, theirs, abar, EDGE_EMPHASIS, 2_000_000 + step, batch)
        at = cloud_abar[some.timesteps].view(-1, 1, 1, 1, 1)
        latents = at**0.5 * ours.scaling_factor * some.z + (1 - at) ** 0.5 * some.noise
        with autocast(device):
            with torch.no_grad():
                embeds = encoder(some.token_ids)[0]
                answer = ask(latents, embeds, cloud_timesteps[some.timesteps])
            output = call(some.noisy, embeds, some.timesteps)
        taught = from_epsilon_and_z(theirs, *to_epsilon_and_z(ours, answer, latents, at), some.abar)
        task = functional.mse_loss(output, some.velocity(theirs))
        return task + functional.mse_loss(output, taught)

    fit("edge", edge, loss, folder=folder, steps=steps, peak_lr=peak_lr, average_decay=average_decay)
