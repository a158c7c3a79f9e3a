"""Trains the cloud UNet with its text encoder, then distils the edge UNet from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from shapes_pair.fit import autocast, fit

CAPTION_DROP = 0.1
MIN_SNR_GAMMA = 5.0
# Where an object goes is decided while hardly anything of it can be seen, and there the loss is tiny. So the
# weight rises to 1 + LAYOUT_WEIGHT where the signal-to-noise ratio is well below LAYOUT_SNR, and LAYOUT_SHARE
# of a batch is drawn from the noisiest timesteps, from LAYOUT_FROM of them on.
LAYOUT_WEIGHT = 15.0
LAYOUT_SNR = 0.05
LAYOUT_SHARE = 0.4
LAYOUT_FROM = 0.8
FEATURE_WEIGHT = 0.1


@dataclass(frozen=True)
class TrainingData:
    """Scaled latents (n, 4, 16, 16), token ids (n, 32), those of "" (1, 32), each scene's frequency (n,)."""

    latents: Tensor
    token_ids: Tensor
    empty_ids: Tensor
    frequency: Tensor


def _noisy_batch(
    data: TrainingData, scheduler: DDIMScheduler, seed: int, batch: int, *, layout: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, noise, timesteps, token ids and weights, by seed.

    The weights are those of min-SNR (arXiv 2303.09556); with ``layout`` the noisiest timesteps count more.
    The edge does without: it takes over when the layout is there.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(data.frequency, batch, replacement=True, generator=rng)
    # One place from each of `batch` equal ranges: lower variance than independent draws.
    places = (torch.arange(batch) + torch.rand(batch, generator=rng)) / batch
    if layout:
        noisiest = LAYOUT_FROM + (1 - LAYOUT_FROM) * places / LAYOUT_SHARE
        places = torch.where(places < LAYOUT_SHARE, noisiest, (places - LAYOUT_SHARE) / (1 - LAYOUT_SHARE))
    last = scheduler.config.num_train_timesteps - 1
    timesteps = (places * (last + 1)).long().clamp(max=last)
    latents = data.latents[rows].float()
    noise = torch.randn(latents.shape, generator=rng)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    dropped = torch.rand(batch, 1, generator=rng) < CAPTION_DROP
    ids = torch.where(dropped, data.empty_ids, data.token_ids[rows])
    snr = compute_snr(scheduler, timesteps)
    weights = snr.clamp(max=MIN_SNR_GAMMA) / snr
    if layout:
        weights = weights * (1 + LAYOUT_WEIGHT / (1 + snr / LAYOUT_SNR))
    return noisy, noise, timesteps, ids, weights


def _weighted(difference: Tensor, weights: Tensor) -> Tensor:
    return (weights * difference.float().square().flatten(1).mean(1)).mean()


def train_cloud(
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int = 40,
) -> None:
    """Train UNet and text encoder to predict the noise."""
    device = next(unet.parameters()).device

    def loss(step: int) -> Tensor:
        tensors = _noisy_batch(data, scheduler, 1_000_000 + step, batch, layout=True)
        noisy, noise, timesteps, ids, weights = (t.to(device) for t in tensors)
        with autocast(device):
            output = unet(noisy, timesteps, encoder(ids)[0]).sample
        return _weighted(output - noise, weights)

    both = nn.ModuleDict({"unet": unet, "encoder": encoder})
    fit("cloud", both, loss, folder=folder, steps=steps, peak_lr=peak_lr)


def _record_blocks(unet: UNet2DConditionModel) -> list[Tensor]:
    """The list that every forward pass of ``unet`` fills with the outputs of its blocks."""
    outputs: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    for block in [*unet.down_blocks, *unet.up_blocks]:
        block.register_forward_hook(hook)
    return outputs


def _block_channels(unet: UNet2DConditionModel) -> list[int]:
    channels = list(unet.config.block_out_channels)
    return channels + channels[::-1]


def train_edge(
    edge: UNet2DConditionModel,
    cloud: UNet2DConditionModel,
    encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    data: TrainingData,
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int = 40,
) -> None:
    """Distil as BK-SDM does (arXiv 2305.15798): the task's loss, the teacher's output, its blocks' outputs.

    The edge has fewer channels than the cloud, so 1x1 convolutions, thrown away afterwards, carry its block
    outputs to the teacher's width.
    """
    device = next(edge.parameters()).device
    widths = list(zip(_block_channels(edge), _block_channels(cloud), strict=True))
    bridges = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in widths).to(device)
    student_blocks, teacher_blocks = _record_blocks(edge), _record_blocks(cloud)
    cloud.requires_grad_(False)
    encoder.requires_grad_(False)

    def loss(step: int) -> Tensor:
        tensors = _noisy_batch(data, scheduler, 2_000_000 + step, batch, layout=False)
        noisy, noise, timesteps, ids, weights = (t.to(device) for t in tensors)
        student_blocks.clear()
        teacher_blocks.clear()
        with autocast(device):
            with torch.no_grad():
                text = encoder(ids)[0]
                taught = cloud(noisy, timesteps, text).sample
            output = edge(noisy, timesteps, text).sample
            triples = zip(bridges, student_blocks, teacher_blocks, strict=True)
            features = sum(
                functional.mse_loss(bridge(s).float(), t.float()) / t.float().square().mean()
                for bridge, s, t in triples
            )
        task, distilled = _weighted(output - noise, weights), _weighted(output - taught, weights)
        return task + distilled + FEATURE_WEIGHT * features

    fit(
        "edge",
        nn.ModuleDict({"edge": edge, "bridges": bridges}),
        loss,
        folder=folder,
        steps=steps,
        peak_lr=peak_lr,
    )
