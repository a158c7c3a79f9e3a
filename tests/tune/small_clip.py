"""A very small CLIP model as transformers saves it, its weights random."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from ..small_models import clip_config, clip_tokenizer

SIDE = 16
"""Pixels of the images that it sees."""


def save(folder: Path) -> Path:
    tokens = clip_tokenizer()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 4,
    }
    torch.manual_seed(0)
    text = clip_config(tokens, 16).to_dict()
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers' small ones make all embeddings alike
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    sides = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=sides).save_pretrained(folder)
    return folder
