"""A very small CogVideoX pair: the architecture and config keys of 5B and 2B, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

TEXT_WIDTH = 16
TEXT_TOKENS = 24
CHANNELS = 4
LATENT_SIDE = 4
FRAMES = 9
"""Three latent frames of 4x4, nine frames of 32x32 pixels."""


def save_pair(folder: Path) -> None:
    """Write ``cloud/`` (after 5B) and ``edge/`` (after 2B) into ``folder``, two diffusers folders."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        words = tokenizer()
        text_encoder, weights = _text_encoder(words), _vae(0.7).state_dict()
        for name, scaling_factor, snr_shift_scale, transformer in (
            ("cloud", 0.7, 1.0, five_b_like()),
            ("edge", 1.15258, 3.0, two_b_like()),
        ):
            vae = _vae(scaling_factor)  # one autoencoder's weights, scaled differently
            vae.load_state_dict(weights)
            CogVideoXPipeline(
                tokenizer=words,
                text_encoder=text_encoder,
                vae=vae,
                transformer=transformer,
                scheduler=scheduler(snr_shift_scale),
            ).save_pretrained(folder / name)


def scheduler(snr_shift_scale: float) -> CogVideoXDDIMScheduler:
    """As both models ship it: v-prediction, zero terminal SNR; 1.0 is 5B's shift, 3.0 is 2B's."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=snr_shift_scale,
        timestep_spacing="trailing",
    )


def five_b_like(**changes: Any) -> CogVideoXTransformer3DModel:
    """Deep and wide, with rotary positions."""
    return _transformer(4, 6, use_rotary_positional_embeddings=True, **changes)


def two_b_like(**changes: Any) -> CogVideoXTransformer3DModel:
    """Shallow and narrow, with sine and cosine positions."""
    return _transformer(2, 1, use_rotary_positional_embeddings=False, **changes)


def _transformer(heads: int, layers: int, **changes: Any) -> CogVideoXTransformer3DModel:
    settings = {
        "num_attention_heads": heads,
        "attention_head_dim": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "time_embed_dim": 32,
        "text_embed_dim": TEXT_WIDTH,
        "num_layers": layers,
        "sample_width": LATENT_SIDE,
        "sample_height": LATENT_SIDE,
        "sample_frames": FRAMES,
        "max_text_seq_length": TEXT_TOKENS,
        **changes,
    }
    model = CogVideoXTransformer3DModel(**settings).eval()
    for name, parameter in model.named_parameters():
        if "text_proj.weight" in name or "norm1.linear.weight" in name:
            parameter.data *= 4  # freshly made, prompt and timestep hardly show
    return model


def _vae(scaling_factor: float) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=8 * LATENT_SIDE,
        sample_width=8 * LATENT_SIDE,
        scaling_factor=scaling_factor,
    ).eval()


def tokenizer() -> T5Tokenizer:
    """A T5 tokenizer (unigrams) of single letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789,.-"]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=TEXT_TOKENS)


def _text_encoder(words: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    return T5EncoderModel(config).eval()
