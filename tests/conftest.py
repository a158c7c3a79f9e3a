"""A very small real pair, so that every test runs whole diffusers pipelines in a fraction of a second."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries read it: a test that downloads fails at once

import hypothesis
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig
from shapes_pair import models

from . import small_models, small_videos
from .small_models import LATENT_SIDE

TEXT_WIDTH = 32

hypothesis.settings.register_profile("ecdiff", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("ecdiff")
torch.set_num_threads(1)  # faster for models this small, and results that do not depend on the machine


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/``, two diffusers folders of 32x32 pixels.

    The cloud is a small Stable Diffusion, the edge lacks a layer a block and the mid block as BK-SDM does.
    """
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, vae = small_models.clip_tokenizer(), small_models.vae()
        text_encoder = CLIPTextModel(small_models.clip_config(tokenizer, TEXT_WIDTH)).eval()
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
            small_models.name_dtypes(folder / name)
    return folder


@pytest.fixture(scope="session")
def sdxl_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` like SDXL-base and ``edge/`` like SSD-1B, of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("sdxl")
    small_models.save_sdxl_pair(folder)
    return folder


@pytest.fixture(scope="session")
def sd3_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/`` of Stable Diffusion 3 with T5, of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("sd3")
    small_models.save_sd3_pair(folder, t5=True)
    return folder


@pytest.fixture(scope="session")
def sd3_pair_without_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with ``[null, null]`` for the third text encoder and tokenizer in both model_index.json."""
    folder = tmp_path_factory.mktemp("sd3_without_t5")
    small_models.save_sd3_pair(folder, t5=False)
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
    small_models.amplify(unet, "attn2.to_out", "time_emb_proj")
    small_models.fit_unet(unet, unet)
    return unet


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
