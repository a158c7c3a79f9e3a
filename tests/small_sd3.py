"""A very small Stable Diffusion 3 pair, with and without its third text encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

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

SD3_WIDTH = 64
SD3_CHANNELS = 16
FIT_SAMPLES = 256


def save_pair(folder: Path, *, t5: bool) -> None:
    """``cloud/`` of two layers, ``edge/`` of one, both with or both without the third text encoder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = clip_tokenizer()
        clips = [CLIPTextModelWithProjection(clip_config(tokens, width)).eval() for width in TEXT_WIDTHS]
        autoencoder = vae(latent_channels=SD3_CHANNELS, scaling_factor=1.5305, shift_factor=0.0609)
        for name, layers in (("cloud", 2), ("edge", 1)):
            StableDiffusion3Pipeline(
                transformer=sd3_transformer(layers),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=autoencoder,
                text_encoder=clips[0],
                tokenizer=tokens,
                text_encoder_2=clips[1],
                tokenizer_2=tokens,
                text_encoder_3=t5_encoder() if t5 else None,
                tokenizer_3=t5_tokenizer() if t5 else None,
            ).save_pretrained(folder / name)
            name_dtypes(folder / name)


def sd3_transformer(layers: int) -> SD3Transformer2DModel:
    """Patches of 2x2 latents; the last layer has no context stream, as in SD3."""
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=SD3_CHANNELS,
        out_channels=SD3_CHANNELS,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=SD3_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=2 * LATENT_SIDE,
    ).eval()
    amplify(transformer, "norm1", "context_embedder", "text_embedder")
    _fit_transformer(transformer)
    return transformer


def t5_tokenizer() -> T5Tokenizer:
    """Unigrams of single letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,.-"]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=models.MAX_TOKENS)


def t5_encoder() -> T5EncoderModel:
    """Two layers, gated as T5 1.1."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=SD3_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config).eval()


@torch.no_grad()
def _fit_transformer(transformer: SD3Transformer2DModel) -> None:
    """Set the last layer to the least-squares prediction of the velocity from what enters it."""
    clean, noise = smooth_latents(FIT_SAMPLES, SD3_CHANNELS)
    sigmas = torch.rand(FIT_SAMPLES, 1, 1, 1)
    noisy, velocity = (1 - sigmas) * clean + sigmas * noise, noise - clean
    text = torch.randn(FIT_SAMPLES, models.MAX_TOKENS, SD3_WIDTH)
    pooled = torch.randn(FIT_SAMPLES, sum(TEXT_WIDTHS))
    timesteps = 1000 * sigmas.flatten()
    given = entering(transformer.proj_out, lambda: transformer(noisy, text, pooled, timesteps))
    tokens = torch.cat([given.flatten(0, 1), torch.ones(given.shape[0] * given.shape[1], 1)], dim=1)
    half = LATENT_SIDE // 2
    patches = velocity.reshape(FIT_SAMPLES, SD3_CHANNELS, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1)
    solution = torch.linalg.lstsq(tokens, patches.reshape(len(tokens), -1)).solution
    transformer.proj_out.weight.copy_(solution[:-1].T)
    transformer.proj_out.bias.copy_(solution[-1])
