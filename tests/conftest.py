"""A very small real pair, so that every test runs whole diffusers pipelines in a fraction of a second."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries read it: a test that downloads fails at once

import hypothesis
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.shapes.grammar import scenes
from shapes_pair import models

from . import small_videos

LATENT_SIDE = 8
TEXT_WIDTH = 32

hypothesis.settings.register_profile("ecdiff", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("ecdiff")
torch.set_num_threads(1)  # faster for models this small, and results that do not depend on the machine


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/``, two diffusers folders of 32x32 pixels.

    The weights are random but for the U-Nets' last layers, which are fitted (least squares) to predict the
    noise of smooth latents. So the noise depends on latents, timestep and prompt, cloud and edge differ, and
    latents stay near 1, which an untrained U-Net does not give.
    """
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        captions = [scene.caption() for scene in itertools.islice(scenes(0), 200)]
        tokenizer, vae = models.tokenizer(captions), _vae()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                projection_dim=TEXT_WIDTH,
                max_position_embeddings=models.MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ).eval()
        for name, layers, mid in (("cloud", 2, "UNetMidBlock2DCrossAttn"), ("edge", 1, None)):
            StableDiffusionPipeline(
                vae=vae,
                text_encoder=text_encoder,
                tokenizer=tokenizer,
                unet=_unet(layers, mid),
                scheduler=models.scheduler(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            ).save_pretrained(folder / name)
            _name_dtype(folder / name / "text_encoder" / "config.json")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_pair: Path) -> TunedConfig:
    """A config of the tiny pair whose plan is ``3C2A1C2A1C3E``: every action, and alpha matters."""
    return TunedConfig(
        pair=PairSpec("tiny", ModelRef(str(tiny_pair / "cloud")), ModelRef(str(tiny_pair / "edge"))),
        params=ECDiffParams(p=3, k=2, alpha=0.3, s=9),
        sampling=Sampling(num_inference_steps=12, guidance_scale=3.0),
    )


def _unet(layers: int, mid: str | None) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        block_out_channels=(16, 32),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type=mid,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()
    for name, parameter in unet.named_parameters():
        if "attn2.to_out" in name or "time_emb_proj" in name:
            parameter.data *= 4  # freshly made, prompt and timestep hardly show
    _fit_noise(unet)
    return unet


@torch.no_grad()
def _fit_noise(unet: UNet2DConditionModel, samples: int = 256) -> None:
    """Set the last convolution to the least-squares prediction of the noise from what enters it."""
    coarse = torch.randn(samples, 4, LATENT_SIDE // 4, LATENT_SIDE // 4)
    clean = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    noise, text = torch.randn_like(clean), torch.randn(samples, models.MAX_TOKENS, TEXT_WIDTH)
    timesteps = torch.randint(1000, (samples,))
    noisy = models.scheduler().add_noise(clean, noise, timesteps)
    entering: list[Tensor] = []
    hook = unet.conv_out.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    unet(noisy, timesteps, text)
    hook.remove()
    patches = torch.nn.functional.unfold(entering[0], 3, padding=1).movedim(1, 2).flatten(0, 1)
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    solution = torch.linalg.lstsq(patches, noise.flatten(2).movedim(1, 2).flatten(0, 1)).solution
    unet.conv_out.weight.copy_(solution[:-1].T.reshape_as(unet.conv_out.weight))
    unet.conv_out.bias.copy_(solution[-1])


def _vae() -> AutoencoderKL:
    channels: Sequence[int] = (8, 8, 8)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=4,
        sample_size=4 * LATENT_SIDE,
        mid_block_add_attention=False,
    ).eval()
    with torch.no_grad():
        flat = vae.decode(torch.randn(8, 4, LATENT_SIDE, LATENT_SIDE)).sample
        vae.decoder.conv_out.weight /= 2 * flat.std()  # contrast that neither vanishes nor saturates
    return vae


def _name_dtype(path: Path) -> None:
    """Say in a text encoder's config that its weights are float32, which a fresh model leaves out."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/`` after CogVideoX 5B and 2B, videos of nine 32x32 frames."""
    folder = tmp_path_factory.mktemp("videos")
    small_videos.save_pair(folder)
    return folder


@pytest.fixture(scope="session")
def video_config(tiny_videos: Path) -> TunedConfig:
    """A config of the tiny video pair whose plan is ``3C2A1C3E``."""
    return TunedConfig(
        pair=PairSpec("videos", ModelRef(str(tiny_videos / "cloud")), ModelRef(str(tiny_videos / "edge"))),
        params=ECDiffParams(p=3, k=2, alpha=0.3, s=6),
        sampling=Sampling(num_inference_steps=9, scheduler="CogVideoXDDIMScheduler", guidance_scale=3.0),
    )
