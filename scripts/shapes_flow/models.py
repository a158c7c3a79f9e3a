"""The parts of the embedded flow-matching pair that the image pair does not have."""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from shapes_pair.models import MAX_TOKENS, TEXT_WIDTH

SECOND_WIDTH = 64
LATENT_CHANNELS, LATENT_SIDE = 4, 16
SHIFT = 3.0
"""Of the timesteps towards noise, as Stable Diffusion 3 ships it."""


def text_encoder(tokens: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder whose pooled output has its own width."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            projection_dim=width,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def _transformer(heads: int, layers: int) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH + SECOND_WIDTH,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=TEXT_WIDTH + SECOND_WIDTH,
        pos_embed_max_size=LATENT_SIDE,
        qk_norm="rms_norm",
    )


def cloud_transformer() -> SD3Transformer2DModel:
    """The cloud model: five joint blocks."""
    return _transformer(heads=4, layers=5)


def edge_transformer() -> SD3Transformer2DModel:
    """The edge model: two joint blocks, narrower."""
    return _transformer(heads=3, layers=2)


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching by Euler steps."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)
