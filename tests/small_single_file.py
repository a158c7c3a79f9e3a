"""A small Stable Diffusion in one file, under the names that its first release used and others kept."""

from __future__ import annotations

import re
from pathlib import Path

from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def save_single_file(folder: Path, path: Path) -> Path:
    """All weights of a diffusers folder in a file."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    depth = pipe.unet.config.layers_per_block
    text = pipe.text_encoder.state_dict()
    tensors = {
        **{f"model.diffusion_model.{_unet(k, depth)}": v for k, v in pipe.unet.state_dict().items()},
        **{f"first_stage_model.{_vae(k)}": v for k, v in pipe.vae.state_dict().items()},
        **{
            f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
            for k, v in text.items()
        },
    }
    save_file({name: _own(value) for name, value in tensors.items()}, path)
    return path


def _own(value: Tensor) -> Tensor:
    return value.contiguous().clone()


def _unet(name: str, depth: int) -> str:
    for new, old in _ENDS.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    kind, block, rest = re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.(.*)", name).groups()  # type: ignore[union-attr]
    group, layer, rest = re.fullmatch(r"(\w+)\.(\d+)\.(.*)", rest).groups()  # type: ignore[union-attr]
    if group == "resnets":
        first, _, last = rest.partition(".")
        rest = f"{_RESNET[first]}.{last}"
    if kind == "mid":
        return f"middle_block.{1 if group == 'attentions' else 2 * int(layer)}.{rest}"
    place = int(block) * (depth + 1) + int(layer)
    if group == "downsamplers":
        return f"input_blocks.{(int(block) + 1) * (depth + 1)}.0.{rest.replace('conv', 'op')}"
    if group == "upsamplers":  # behind the last layer's attention, which the first level alone has here
        return f"output_blocks.{place + depth}.{2 if block == '0' else 1}.{rest}"
    where = f"input_blocks.{place + 1}" if kind == "down" else f"output_blocks.{place}"
    return f"{where}.{1 if group == 'attentions' else 0}.{rest}"


def _vae(name: str, levels: int = 3) -> str:
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = name.replace("down_blocks.", "down.").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for new, old in (
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(new, old)
    return name
