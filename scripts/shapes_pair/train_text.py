"""Gives the text encoder a start: from its tokens, a small head must sketch the image at 16x16.

CLIP starts from 400 million captioned images; this is the embedded pair's stand-in. The head is thrown
away, and the encoder trains on with the cloud model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from shapes_pair.fit import autocast, fit
from shapes_pair.models import TEXT_WIDTH
from shapes_pair.train_vae import to_input


class SketchHead(nn.Module):
    """64 learnt queries attend to the tokens; each one answers with a 2x2 patch of the 16x16 sketch."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.5 * torch.randn(64, TEXT_WIDTH))
        layer = nn.TransformerDecoderLayer(TEXT_WIDTH, 4, 2 * TEXT_WIDTH, dropout=0.0, batch_first=True)
        self.attend = nn.TransformerDecoder(layer, num_layers=2)
        self.answer = nn.Linear(TEXT_WIDTH, 3 * 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token embeddings (n, length, width) to sketches (n, 3, 16, 16)."""
        patches = self.answer(self.attend(self.queries.expand(len(tokens), -1, -1), tokens))
        return functional.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (8, 8)), 2)


def train_text(
    encoder: CLIPTextModel,
    token_ids: Tensor,
    images: NDArray[np.uint8],
    *,
    folder: Path,
    steps: int,
    batch: int = 96,
) -> None:
    """Train the encoder and a sketch head on (n, 32) token ids and their images."""
    device = next(encoder.parameters()).device
    both = nn.ModuleDict({"encoder": encoder, "head": SketchHead().to(device)})

    def loss(step: int) -> Tensor:
        rows = np.sort(np.random.default_rng((12, step)).integers(len(images), size=batch))
        target = functional.avg_pool2d(to_input(images[rows], device), 4)
        with autocast(device):
            sketch = both["head"](encoder(token_ids[rows].to(device))[0])
        return functional.mse_loss(sketch.float(), target)

    fit("text", both, loss, folder=folder, steps=steps, peak_lr=1e-3)
