"""Trains the cloud UNet with its text encoder, then distils the edge UNet from it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from shapes_pair.fit import fit

CAPTION_DROP = 0.1
MIN_SNR_GAMMA = 5.0
LAYOUT_WEIGHT = 15.0
LAYOUT_SNR = 0.05
LAYOUT_SHARE = 0.4
LAYOUT_FROM = 0.8
FEATURE_WEIGHT = 0.1


def _noisy_batch(
    latents: Tensor, token_ids: Tensor, empty_ids: Tensor, scheduler: DDIMScheduler, seed: int, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, noise, timesteps, token ids and min-SNR weights (arXiv 2303.09556), by seed."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(latents), (batch,), generator=rng)
    # One place from each of `batch` equal ranges: lower variance than independent draws.
    places = (torch.arange(batch) + torch.rand(batch, generator=rng)) / batch
    # LAYOUT_SHARE of them fall on the noisiest timesteps, from LAYOUT_FROM on; the others on all.
    noisiest = LAYOUT_FROM + (1 - LAYOUT_FROM) * places / LAYOUT_SHARE
    places = torch.where(places < LAYOUT_SHARE, noisiest, (places - LAYOUT_SHARE) / (1 - LAYOUT_SHARE))
    timesteps = (places * scheduler.config.num_train_timesteps).long()
    noise = torch.randn(batch, *latents.shape[1:], generator=rng)
    noisy = scheduler.add_noise(latents[rows].float(), noise, timesteps)
    dropped = torch.rand(batch, 1, generator=rng) < CAPTION_DROP
    ids = torch.where(dropped, empty_ids, token_ids[rows])
    snr = compute_snr(scheduler, timesteps)
    weights = snr.clamp(max=MIN_SNR_GAMMA) / snr
    # Where a lone object goes is decided while nothing of it can be seen yet; there the loss is tiny.
    weights = weights * (1 + LAYOUT_WEIGHT / (1 + snr / LAYOUT_SNR))
    return noisy, noise, timesteps, ids, weights


def _weighted(difference: Tensor, weights: Tensor) -> Tensor:
    return (weights * difference.float().square().flatten(1).mean(1)).mean()


def train_cloud(
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    data: tuple[Tensor, Tensor, Tensor],
    *,
    folder: Path,
    steps: int,
    peak_lr: float,
    batch: int = 40,
) -> None:
    """Epsilon-prediction on scaled latents; ``data`` is (latents, token ids, token ids of "")."""
    device = next(unet.parameters()).device

    def loss(step: int) -> Tensor:
        tensors = _noisy_batch(*data, scheduler, 1_000_000 + step, batch)
        noisy, noise, timesteps, ids, weights = (t.to(device) for t in tensors)
        with torch.autocast(device.type, torch.bfloat16):
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
    data: tuple[Tensor, Tensor, Tensor],
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
        tensors = _noisy_batch(*data, scheduler, 2_000_000 + step, batch)
        noisy, noise, timesteps, ids, weights = (t.to(device) for t in tensors)
        student_blocks.clear()
        teacher_blocks.clear()
        with torch.autocast(device.type, torch.bfloat16):
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
