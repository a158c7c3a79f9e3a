"""What very small models are made of, with the architecture and the config keys of the real ones.

Weights are random but for the denoisers' last layers, which are fitted (least squares) to predict the noise,
or the velocity, of smooth latents. So the output depends on latents, timestep and prompt, cloud and edge
differ, and latents stay near 1, which an untrained denoiser does not give.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from ecdiff_core.shapes.grammar import scenes
from shapes_pair import models

LATENT_SIDE = 8
TEXT_WIDTHS = (16, 32)
"""Of the two CLIP encoders of SDXL and SD3; the second's is also that of its pooled embeddings."""


def clip_tokenizer() -> CLIPTokenizer:
    """With merges learnt from captions of the embedded pair's grammar."""
    return models.tokenizer([scene.caption() for scene in itertools.islice(scenes(0), 200)])


def clip_config(tokens: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """Of a text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=models.MAX_TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def vae(**changes: Any) -> AutoencoderKL:
    """Four pixels a latent, SD's four channels."""
    settings = {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "sample_size": 4 * LATENT_SIDE,
        "mid_block_add_attention": False,
        **changes,
    }
    model = AutoencoderKL(**settings).eval()
    with torch.no_grad():
        flat = model.decode(torch.randn(8, settings["latent_channels"], LATENT_SIDE, LATENT_SIDE)).sample
        model.decoder.conv_out.weight /= 2 * flat.std()  # contrast that neither vanishes nor saturates
    return model


def name_dtypes(folder: Path) -> None:
    """Say in the text encoders' configs that the weights are float32, which fresh models leave out."""
    for path in folder.glob("text_encoder*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2), encoding="utf-8")


def amplify(model: nn.Module, *names: str) -> None:
    """Of a freshly made model: through these layers prompt and timestep would hardly show."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.data *= 4


def smooth_latents(samples: int, channels: int) -> tuple[Tensor, Tensor]:
    """Latents, and noise for them."""
    coarse = torch.randn(samples, channels, LATENT_SIDE // 4, LATENT_SIDE // 4)
    clean = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    return clean, torch.randn_like(clean)


def entering(layer: nn.Module, run: Callable[[], object]) -> Tensor:
    """What enters the layer while ``run()``."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    hook.remove()
    return seen[0]
