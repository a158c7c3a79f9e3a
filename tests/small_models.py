"""Very small pairs with the architecture and the config keys of the real ones, saved as diffusers folders.

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
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ecdiff_core.shapes.grammar import scenes
from shapes_pair import models

LATENT_SIDE = 8
TEXT_WIDTHS = (16, 32)
"""Of the two CLIP encoders; the second's is also that of its pooled embeddings."""
SDXL_TIME_WIDTH = 8
SD3_WIDTH = 64
SD3_CHANNELS = 16
FIT_SAMPLES = 256


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


def save_sdxl_pair(folder: Path) -> None:
    """``cloud/`` after SDXL-base, ``edge/`` after SSD-1B: depths by layer, no attention in the mid block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens, (first, second) = clip_tokenizer(), TEXT_WIDTHS
        text_encoder = CLIPTextModel(clip_config(tokens, first)).eval()
        text_encoder_2 = CLIPTextModelWithProjection(clip_config(tokens, second)).eval()
        autoencoder = vae(scaling_factor=0.13025, force_upcast=True)
        edge_depths = {
            "transformer_layers_per_block": [1, [1, 1], [2, 2]],
            "reverse_transformer_layers_per_block": [[1, 1, 2], [2, 1, 1], 1],
            "mid_block_type": "UNetMidBlock2D",
        }
        for name, depths in (("cloud", {"transformer_layers_per_block": [1, 1, 2]}), ("edge", edge_depths)):
            StableDiffusionXLPipeline(
                vae=autoencoder,
                text_encoder=text_encoder,
                text_encoder_2=text_encoder_2,
                tokenizer=tokens,
                tokenizer_2=tokens,
                unet=sdxl_unet(**depths),
                scheduler=sdxl_scheduler(),
            ).save_pretrained(folder / name)
            name_dtypes(folder / name)


def sdxl_scheduler() -> EulerDiscreteScheduler:
    """As SDXL-base ships it, with keys that only other schedulers on this config read."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    return EulerDiscreteScheduler.from_config(config)


def sdxl_unet(**changes: Any) -> UNet2DConditionModel:
    """Three levels, of which the first has no attention; pooled embeddings and six numbers of the size."""
    settings = {
        "sample_size": LATENT_SIDE,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [1, 2, 4],
        "use_linear_projection": True,
        "cross_attention_dim": sum(TEXT_WIDTHS),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SDXL_TIME_WIDTH,
        "projection_class_embeddings_input_dim": TEXT_WIDTHS[1] + 6 * SDXL_TIME_WIDTH,
        "norm_num_groups": 4,
        **changes,
    }
    unet = UNet2DConditionModel(**settings).eval()
    amplify(unet, "attn2.to_out", "time_emb_proj")
    pooled = settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]
    side = 4.0 * LATENT_SIDE
    added = {
        "text_embeds": torch.randn(FIT_SAMPLES, pooled),
        "time_ids": torch.tensor([side, side, 0, 0, side, side]).repeat(FIT_SAMPLES, 1),
    }
    fit_unet(unet, lambda *given: unet(*given, added_cond_kwargs=added))
    return unet


def save_sd3_pair(folder: Path, *, t5: bool) -> None:
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


def amplify(model: nn.Module, *names: str) -> None:
    """Of a freshly made model: through these layers prompt and timestep would hardly show."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.data *= 4


def _smooth(channels: int) -> tuple[Tensor, Tensor]:
    """Latents, and noise for them."""
    coarse = torch.randn(FIT_SAMPLES, channels, LATENT_SIDE // 4, LATENT_SIDE // 4)
    clean = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    return clean, torch.randn_like(clean)


def _entering(layer: nn.Module, run: Callable[[], object]) -> Tensor:
    """What enters the layer while ``run()``."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    hook.remove()
    return seen[0]


@torch.no_grad()
def fit_unet(unet: UNet2DConditionModel, call: Callable[[Tensor, Tensor, Tensor], object]) -> None:
    """Set the last convolution to the least-squares prediction of the noise from what enters it.

    ``call`` runs the U-Net on noisy latents, timesteps and embeddings.
    """
    clean, noise = _smooth(4)
    text = torch.randn(FIT_SAMPLES, models.MAX_TOKENS, unet.config.cross_attention_dim)
    timesteps = torch.randint(1000, (FIT_SAMPLES,))
    noisy = models.scheduler().add_noise(clean, noise, timesteps)
    entering = _entering(unet.conv_out, lambda: call(noisy, timesteps, text))
    patches = nn.functional.unfold(entering, 3, padding=1).movedim(1, 2).flatten(0, 1)
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    solution = torch.linalg.lstsq(patches, noise.flatten(2).movedim(1, 2).flatten(0, 1)).solution
    unet.conv_out.weight.copy_(solution[:-1].T.reshape_as(unet.conv_out.weight))
    unet.conv_out.bias.copy_(solution[-1])


@torch.no_grad()
def _fit_transformer(transformer: SD3Transformer2DModel) -> None:
    """Set the last layer to the least-squares prediction of the velocity from what enters it."""
    clean, noise = _smooth(SD3_CHANNELS)
    sigmas = torch.rand(FIT_SAMPLES, 1, 1, 1)
    noisy, velocity = (1 - sigmas) * clean + sigmas * noise, noise - clean
    text = torch.randn(FIT_SAMPLES, models.MAX_TOKENS, SD3_WIDTH)
    pooled = torch.randn(FIT_SAMPLES, sum(TEXT_WIDTHS))
    timesteps = 1000 * sigmas.flatten()
    entering = _entering(transformer.proj_out, lambda: transformer(noisy, text, pooled, timesteps))
    tokens = torch.cat([entering.flatten(0, 1), torch.ones(entering.shape[0] * entering.shape[1], 1)], dim=1)
    half = LATENT_SIDE // 2
    patches = velocity.reshape(FIT_SAMPLES, SD3_CHANNELS, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1)
    solution = torch.linalg.lstsq(tokens, patches.reshape(len(tokens), -1)).solution
    transformer.proj_out.weight.copy_(solution[:-1].T)
    transformer.proj_out.bias.copy_(solution[-1])
