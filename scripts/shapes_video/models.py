"""The parts of the embedded video pair, as ordinary diffusers and transformers models of small size."""

from __future__ import annotations

from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from ecdiff_core.shapes.grammar import COLORS, PATTERNS, SHAPES, TONES
from ecdiff_core.shapes_video.grammar import LAYOUTS, MOTIONS
from shapes_video.draw import FRAMES, SIZE

MAX_TOKENS = 24
TEXT_WIDTH = 128
LATENT_CHANNELS = 8
SPATIAL, TEMPORAL = 4, 4
"""Pixels a latent along a side, frames a latent frame (the first frame has one of its own)."""

LATENT_FRAMES = (FRAMES - 1) // TEMPORAL + 1
LATENT_SIDE = SIZE // SPATIAL
CLOUD_OVER_EDGE_SCALING = 0.7 / 1.15258
"""CogVideoX 5B's scaling factor over 2B's."""

CLOUD_SNR_SHIFT, EDGE_SNR_SHIFT = 1.0, 3.0


def vae() -> AutoencoderKLCogVideoX:
    """Nine frames of 64x64 to 3 latent frames of 8 channels and 16x16, and back."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(24, 48, 48),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=TEMPORAL,
        sample_height=SIZE,
        sample_width=SIZE,
        scaling_factor=1.0,
    )


def tokenizer() -> T5Tokenizer:
    """A T5 tokenizer (unigrams) of the grammar's words; other words fall apart into letters."""
    phrases = (*COLORS, *SHAPES, *TONES, *PATTERNS, *MOTIONS, *(p for some in LAYOUTS.values() for p in some))
    words = dict.fromkeys(w for p in (*phrases, "a", "an", "and", "on", "background") for w in p.split())
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0), (",", -2.0)]
    letters = [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789.-"]
    vocabulary = special + [(f"▁{word}", -2.0) for word in words] + letters
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=MAX_TOKENS)


def text_encoder(tokens: T5Tokenizer) -> T5EncoderModel:
    """A two-layer T5 encoder over that tokenizer, gated as T5 1.1."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokens),
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
        )
    )


def _transformer(heads: int, layers: int, rotary: bool) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=TEXT_WIDTH,
        num_layers=layers,
        sample_width=LATENT_SIDE,
        sample_height=LATENT_SIDE,
        sample_frames=FRAMES,
        temporal_compression_ratio=TEMPORAL,
        max_text_seq_length=MAX_TOKENS,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=rotary,
    )


def cloud_transformer() -> CogVideoXTransformer3DModel:
    """The cloud model, after CogVideoX 5B: deep and wide, rotary positions."""
    return _transformer(heads=7, layers=6, rotary=True)


def edge_transformer() -> CogVideoXTransformer3DModel:
    """The edge model, after CogVideoX 2B: fewer layers and heads, fixed sine and cosine positions."""
    return _transformer(heads=4, layers=3, rotary=False)


def scheduler(snr_shift_scale: float) -> CogVideoXDDIMScheduler:
    """As CogVideoX ships it: v-prediction, zero terminal SNR, timesteps from the last one."""
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
