"""Very small Stable Diffusion and SDXL models: U-Nets of any layout, also that of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from shapes_pair import models

from .small_models import (
    LATENT_SIDE,
    TEXT_WIDTHS,
    amplify,
    clip_config,
    clip_tokenizer,
    entering,
    name_dtypes,
    smooth_latents,
    vae,
)

FULL_SIZE = Path(__file__).parents[1] / "scripts" / "full_size" / "configs"
"""unet/config.json of the real models."""
TEXT_WIDTH = 32
"""Of Stable Diffusion's text encoder."""
SDXL_TIME_WIDTH = 8
FIT_SAMPLES = 64
LAYOUT = (
    "layers_per_block",
    "down_block_types",
    "mid_block_type",
    "up_block_types",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
)

Unets = Mapping[str, Callable[[], UNet2DConditionModel]]
"""What makes the U-Net of every model of a folder, by the model's name."""


def save_tiny_pair(folder: Path) -> None:
    """``cloud`` and ``edge``: a small Stable Diffusion, and one that lacks the mid block, as BK-SDM does."""
    save_sd_models(folder, {"cloud": sd_unet, "edge": partial(sd_unet, mid_block_type=None)})


def save_sd_models(folder: Path, unets: Unets) -> None:
    """Stable Diffusion models that differ in their U-Nets alone, a diffusers folder each."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tokens, autoencoder = clip_tokenizer(), vae()
        text_encoder = CLIPTextModel(clip_config(tokens, TEXT_WIDTH)).eval()
        for name, make in unets.items():
            StableDiffusionPipeline(
                vae=autoencoder,
                text_encoder=text_encoder,
                tokenizer=tokens,
                unet=make(),
                scheduler=models.scheduler(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            ).save_pretrained(folder / name)
            name_dtypes(folder / name)


def layout(name: str) -> dict[str, Any]:
    """A real U-Net's blocks and depths, for ``sd_unet`` or ``sdxl_unet``; its channels divided by 20."""
    config = json.loads((FULL_SIZE / f"{name}.json").read_text(encoding="utf-8"))
    depths = {key: config[key] for key in LAYOUT if key in config}
    return {**depths, "block_out_channels": [channels // 20 for channels in config["block_out_channels"]]}


def sd_unet(**changes: Any) -> UNet2DConditionModel:
    """One level, without attention on the way up."""
    settings = {
        "sample_size": LATENT_SIDE,
        "block_out_channels": (32,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        **changes,
    }
    unet = UNet2DConditionModel(**settings).eval()
    amplify(unet, "attn2.to_out", "time_emb_proj")
    fit_unet(unet, unet)
    return unet


def save_sdxl_models(folder: Path, unets: Unets) -> None:
    """Stable Diffusion XL models that differ in their U-Nets alone, a diffusers folder each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens, (first, second) = clip_tokenizer(), TEXT_WIDTHS
        text_encoder = CLIPTextModel(clip_config(tokens, first)).eval()
        text_encoder_2 = CLIPTextModelWithProjection(clip_config(tokens, second)).eval()
        autoencoder = vae(scaling_factor=0.13025, force_upcast=True)
        for name, make in unets.items():
            StableDiffusionXLPipeline(
                vae=autoencoder,
                text_encoder=text_encoder,
                text_encoder_2=text_encoder_2,
                tokenizer=tokens,
                tokenizer_2=tokens,
                unet=make(),
                scheduler=sdxl_scheduler(),
            ).save_pretrained(folder / name)
            name_dtypes(folder / name)


def sdxl_scheduler() -> EulerDiscreteScheduler:
    """As SDXL-base ships it, with keys that only other schedulers on this config read."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    return EulerDiscreteScheduler.from_config(config)


def sdxl_unet(**changes: Any) -> UNet2DConditionModel:
    """Two levels, of which the first has no attention; pooled embeddings and six numbers of the size."""
    settings = {
        "sample_size": LATENT_SIDE,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "use_linear_projection": True,
        "cross_attention_dim": sum(TEXT_WIDTHS),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SDXL_TIME_WIDTH,
        "projection_class_embeddings_input_dim": TEXT_WIDTHS[1] + 6 * SDXL_TIME_WIDTH,
        "norm_num_groups": 4,
        **changes,
    }
    unet = UNet2DConditionModel(**settings).eval()
    amplify(unet, "attn2.to_out", "time_emb_proj")
    pooled = settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]
    side = 4.0 * LATENT_SIDE
    added = {
        "text_embeds": torch.randn(FIT_SAMPLES, pooled),
        "time_ids": torch.tensor([side, side, 0, 0, side, side]).repeat(FIT_SAMPLES, 1),
    }
    fit_unet(unet, lambda *given: unet(*given, added_cond_kwargs=added))
    return unet


@torch.no_grad()
def fit_unet(unet: UNet2DConditionModel, call: Callable[[Tensor, Tensor, Tensor], object]) -> None:
    """Set the last convolution to the least-squares prediction of the noise from what enters it.

    ``call`` runs the U-Net on noisy latents, timesteps and embeddings.
    """
    clean, noise = smooth_latents(FIT_SAMPLES, 4)
    text = torch.randn(FIT_SAMPLES, models.MAX_TOKENS, unet.config.cross_attention_dim)
    timesteps = torch.randint(1000, (FIT_SAMPLES,))
    noisy = models.scheduler().add_noise(clean, noise, timesteps)
    given = entering(unet.conv_out, lambda: call(noisy, timesteps, text))
    patches = nn.functional.unfold(given, 3, padding=1).movedim(1, 2).flatten(0, 1)
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    solution = torch.linalg.lstsq(patches, noise.flatten(2).movedim(1, 2).flatten(0, 1)).solution
    unet.conv_out.weight.copy_(solution[:-1].T.reshape_as(unet.conv_out.weight))
    unet.conv_out.bias.copy_(solution[-1])
