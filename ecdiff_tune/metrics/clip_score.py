"""CLIP score: how well an image fits its prompt, without an image to compare with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from ecdiff_core.errors import first_line
from ecdiff_tune.metrics.images import MetricError


class CLIPScore:
    """100 times the cosine of an image's and its prompt's CLIP embedding (Hessel et al. 2021), loaded once.

    Args:
        folder: of a CLIP model with its tokenizer and image processor, as transformers saves them.
        device: where to compute.

    Raises:
        MetricError: there is no such folder, or no whole CLIP model in it.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        _check_folder(folder)
        try:
            loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            model, loading = loaded
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            line = f"Cannot load the CLIP model in {folder}: {first_line(error)}."
            raise MetricError(line, key="metrics.clip", got=str(folder)) from error
        if loading["missing_keys"]:  # transformers would fill them with random numbers
            missing = min(loading["missing_keys"])
            line = f"The CLIP model in {folder} is not whole: its weights lack {missing}."
            raise MetricError(line, key="metrics.clip", got=str(folder), expected=missing)
        self._model = model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score, -100 … 100 (of good images about 30); of videos the mean of the frames'.

        Args:
            images: RGB in 0 … 1, shape (n, 3, height, width), of videos (n, frames, 3, height, width).
            prompts: one an image or video; CLIP reads their first 77 tokens.

        Returns:
            One value an image or video, shape (n,), float32, on the CPU.
        """
        if images.ndim not in (4, 5) or images.shape[-3] != 3 or len(images) != len(prompts):
            raise ValueError(
                f"Expected {len(prompts)} images (n, 3, height, width) or videos (n, frames, 3, height, "
                f"width), got {tuple(images.shape)}."
            )
        videos = images if images.ndim == 5 else images[:, None]
        scores = [self._score(*pair) for pair in zip(videos, prompts, strict=True)]
        return torch.stack(scores)

    def _score(self, frames: Tensor, prompt: str) -> Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([prompt], truncation=True, max_length=longest, return_tensors="pt")
        text = self._model.get_text_features(**tokens.to(self._device)).pooler_output
        levels = (frames.float().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
        pixels = self._processor([Image.fromarray(one) for one in levels], return_tensors="pt")
        image = self._model.get_image_features(**pixels.to(self._device)).pooler_output
        return 100 * torch.cosine_similarity(image.float(), text.float()).mean().cpu()


def _check_folder(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricError(
            f"Expected a CLIP model as transformers saves it in metrics.clip={folder}, found no config.json "
            "that names one.",
            key="metrics.clip",
            got=str(folder),
            expected=["config.json"],
        ) from error
    if kind != "clip":
        line = f"Expected a CLIP model in metrics.clip={folder}, got one of the type {kind!r}."
        raise MetricError(line, key="metrics.clip", got=kind, expected="clip")
