"""The paper's five pairs as loaded pairs of random weights, with random embeddings for text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.families import Family
from ecdiff_core.models.families.cogvideox import CogVideoX
from ecdiff_core.models.families.family import Prompts, Size
from ecdiff_core.models.families.stable_diffusion import StableDiffusion
from ecdiff_core.models.families.stable_diffusion_xl import StableDiffusionXL
from ecdiff_core.models.pair import Pair
from ecdiff_core.sampling.batching import Conditioning
from full_size.models import Scale, build_model, build_scheduler, count_parameters, read_config

TUNED = Path(__file__).resolve().parents[2] / "conf" / "tuned"
CLIP_TOKENS = 77
GIB = 2**30


class BenchmarkError(ECDiffError):
    """A pair cannot be measured here."""


def random_conditioning(
    family: Family, prompts: Prompts, guidance_scale: float, shapes: Mapping[str, tuple[int, ...]]
) -> Conditioning:
    """Normal numbers of those shapes a prompt, twice as many with guidance."""
    batch = len(prompts) * (2 if guidance_scale > 1 else 1)
    generator = torch.Generator().manual_seed(0)
    dtype = next(family.denoiser.parameters()).dtype
    tensors = {
        name: torch.randn(batch, *shape, generator=generator).to(family.device, dtype)
        for name, shape in shapes.items()
    }
    return Conditioning(tensors, len(prompts))


class TextlessStableDiffusion(StableDiffusion):
    """Stable Diffusion without its text encoder."""

    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        shapes = {"encoder_hidden_states": (CLIP_TOKENS, self.denoiser_config.cross_attention_dim)}
        return random_conditioning(self, prompts, guidance_scale, shapes)


class TextlessStableDiffusionXL(StableDiffusionXL):
    """Stable Diffusion XL without its two text encoders."""

    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        config = self.denoiser_config
        pixels = (size.height, size.width, 0, 0, size.height, size.width)
        width = config.projection_class_embeddings_input_dim - len(pixels) * config.addition_time_embed_dim
        shapes = {"encoder_hidden_states": (CLIP_TOKENS, config.cross_attention_dim), "text_embeds": (width,)}
        found = random_conditioning(self, prompts, guidance_scale, shapes)
        pooled = found.tensors["text_embeds"]
        time_ids: Tensor = pooled.new_tensor(pixels).repeat(len(pooled), 1)
        return replace(found, tensors={**found.tensors, "time_ids": time_ids})


class TextlessCogVideoX(CogVideoX):
    """CogVideoX without T5."""

    def encode(
        self,
        prompts: Prompts,
        guidance_scale: float,
        size: Size,
        negative_prompts: Prompts | None = None,
    ) -> Conditioning:
        config = self.pipeline.transformer.config
        shapes = {"encoder_hidden_states": (config.max_text_seq_length, config.text_embed_dim)}
        return random_conditioning(self, prompts, guidance_scale, shapes)


@dataclass(frozen=True)
class Parts:
    """A family, and the configs of cloud and edge denoiser, autoencoder and scheduler by name."""

    family: type[Family]
    cloud: str
    edge: str
    vae: str
    scheduler: str


def _parts(family: type[Family], cloud: str, edge: str, shared: str) -> Parts:
    return Parts(family, cloud, edge, f"vae_{shared}", f"scheduler_{shared}")


PAIRS = {
    "sd14_bksdm_small": _parts(TextlessStableDiffusion, "sd14", "bk_sdm_small", "sd14"),
    "sd14_bksdm_tiny": _parts(TextlessStableDiffusion, "sd14", "bk_sdm_tiny", "sd14"),
    "sdxl_ssd1b": _parts(TextlessStableDiffusionXL, "sdxl_base", "ssd_1b", "sdxl"),
    "sdxl_vega": _parts(TextlessStableDiffusionXL, "sdxl_base", "segmind_vega", "sdxl"),
    "cogvideox_5b_2b": _parts(TextlessCogVideoX, "cogvideox_5b", "cogvideox_2b", "cogvideox_5b"),
}


def choose(name: str) -> list[str]:
    """The pairs that a name stands for: itself, or ``all``.

    Raises:
        BenchmarkError: there is no such pair.
    """
    if name != "all" and name not in PAIRS:
        raise BenchmarkError.unknown("pair", name, [*PAIRS, "all"])
    return list(PAIRS) if name == "all" else [name]


def tuned_config(name: str, scale: Scale, dtype: str | None) -> TunedConfig:
    """The pair's row of Table 5, at that scale; ``dtype`` in place of the pair's own."""
    config = TunedConfig.load(TUNED / f"{name}.yaml")
    sampling = replace(config.sampling, dtype=dtype or config.sampling.dtype)
    size = scale.video if PAIRS[name].family.media == "video" else scale.image
    if size is not None:
        frames = size.num_frames if PAIRS[name].family.media == "video" else None
        sampling = replace(sampling, height=size.height, width=size.width, num_frames=frames)
    return replace(config, sampling=sampling)


def build_pair(config: TunedConfig, scale: Scale, device: torch.device, dtype: torch.dtype) -> Pair:
    """The pair that ``config`` names, of random weights.

    Raises:
        BenchmarkError: its weights alone are more than the device's memory.
    """
    parts = PAIRS[config.pair.name]
    names = (parts.cloud, parts.edge, parts.vae)
    _check_memory(sum(count_parameters(name, scale) for name in names) * dtype.itemsize, device)
    torch.manual_seed(0)
    cloud, edge, vae = (build_model(read_config(name, scale), device, dtype) for name in names)
    family = parts.family
    given: dict[str, Any] = dict.fromkeys(
        (*family.text_encoder_parts, *family.unweighted_parts, *family.left_out_parts)
    )
    given |= {family.denoiser_part: cloud, "vae": vae, "scheduler": build_scheduler(parts.scheduler)}
    # No noise schedules: Table 5's configs hand latents over as they are.
    return Pair(config.pair, family(family.pipeline_class(**given)), edge, None, None)


def _check_memory(needed: int, device: torch.device) -> None:
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    if needed > there:
        raise BenchmarkError(
            f"its weights take {needed / GIB:.1f} GiB, {device} has {there / GIB:.1f} GiB.",
            key="--size",
            got=needed,
            expected=f"<= {there}",
            advice="Use a larger device, half precision or --size reduced.",
        )


def compiled(pair: Pair) -> Pair:
    """The same weights, both denoisers behind ``torch.compile``."""
    family = pair.family
    models: list[Any] = [torch.compile(pair.cloud), torch.compile(pair.edge)]
    parts = {**family.pipeline.components, family.denoiser_part: models[0]}
    return replace(pair, family=type(family)(type(family.pipeline)(**parts)), edge=models[1])
