"""The parts of the embedded pair, as ordinary diffusers and transformers models of small size."""

from __future__ import annotations

import json

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 32
TEXT_WIDTH = 128


def vae() -> AutoencoderKL:
    """A 64x64 image to 4 latent channels of 16x16 and back."""
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learnt from the captions."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = trainers.BpeTrainer(
        vocab_size=800, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(captions, learner)
    learnt = json.loads(bpe.to_str())["model"]["merges"]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in learnt]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in learnt],
        model_max_length=MAX_TOKENS,
    )


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """A three-layer CLIP text encoder over that tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def _unet(channels: tuple[int, int], layers: int, heads: int, mid: str | None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type=mid,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=heads,  # diffusers' UNet reads this as the number of heads
        norm_num_groups=16,
    )


def cloud_unet() -> UNet2DConditionModel:
    """The cloud model: two layers a block, cross-attention at 8x8, a mid block."""
    return _unet((64, 160), layers=2, heads=5, mid="UNetMidBlock2DCrossAttn")


def edge_unet() -> UNet2DConditionModel:
    """The edge model: BK-SDM's cuts (one layer a block, no mid block) and fewer channels."""
    return _unet((48, 96), layers=1, heads=3, mid=None)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule: epsilon-prediction, scaled-linear betas."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
