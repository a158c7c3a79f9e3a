"""The paper's models from their configs alone: random weights, at full size or smaller ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import nn

from ecdiff_core.models.families.family import Size

CONFIGS = Path(__file__).parent / "configs"
NORM_GROUPS = 32
"""All of these models normalise channels in that many groups, so channels stay multiples of it."""
PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class Scale:
    """How much smaller than the real models.

    Args:
        channels: divisor of the channels and attention heads of U-Nets and autoencoders.
        heads: divisor of the attention heads, and with them of the width, of transformers.
        layers: divisor of the depth of transformers; U-Nets keep theirs.
        image, video: what is generated; None is what the config says.
    """

    channels: int = 1
    heads: int = 1
    layers: int = 1
    image: Size | None = None
    video: Size | None = None


SCALES = {
    "full": Scale(),
    "reduced": Scale(10, 10, 6, Size(128, 128), Size(48, 64, 9)),
    "tiny": Scale(10, 24, 21, Size(64, 64), Size(16, 32, 9)),
}
"""``reduced`` is for a CPU, ``tiny`` for tests. Only ``full`` says anything of the paper's figures."""


def read_config(name: str, scale: Scale = SCALES["full"]) -> dict[str, Any]:
    """The config of that name in ``configs/``, at that scale."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    if scale.image is None or scale.video is None:
        return config
    if config["_class_name"] == "CogVideoXTransformer3DModel":
        return config | {
            "num_attention_heads": _divided(config["num_attention_heads"], scale.heads),
            "num_layers": _divided(config["num_layers"], scale.layers),
            "sample_height": scale.video.height // PIXELS_PER_LATENT,
            "sample_width": scale.video.width // PIXELS_PER_LATENT,
            "sample_frames": scale.video.num_frames,
        }
    if "block_out_channels" in config:
        config["block_out_channels"] = [
            max(NORM_GROUPS, channels // scale.channels // NORM_GROUPS * NORM_GROUPS)
            for channels in config["block_out_channels"]
        ]
    if config["_class_name"] == "UNet2DConditionModel":
        config["sample_size"] = scale.image.height // PIXELS_PER_LATENT
        heads = config["attention_head_dim"]  # whatever its name says, these are numbers of heads
        many = [_divided(number, scale.channels) for number in heads] if isinstance(heads, list) else None
        config["attention_head_dim"] = many or _divided(heads, scale.channels)
    return config


def _divided(number: int, divisor: int) -> int:
    return max(1, number // divisor)


def build_model(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model of a config with fresh random weights, made where and in the precision it will run."""
    with _made_as(device, dtype):
        model: nn.Module = getattr(diffusers, config["_class_name"]).from_config(config)
    return model.eval().requires_grad_(False)


@contextmanager
def _made_as(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def build_scheduler(name: str) -> SchedulerMixin:
    """The scheduler of the config of that name."""
    config = read_config(name)
    return getattr(diffusers, config["_class_name"]).from_config(config)


def count_parameters(name: str, scale: Scale) -> int:
    """Parameters of the model of that config, which is not built for it."""
    model = build_model(read_config(name, scale), torch.device("meta"), torch.float32)
    return sum(parameter.numel() for parameter in model.parameters())
