"""The parts of a diffusers folder, as its model_index.json names them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn


def part_class(folder: Path, part: str) -> type:
    """The class that model_index.json names for a part.

    Raises:
        ValueError: it names none that diffusers or transformers has.
    """
    named = _model_index(folder).get(part)
    library, name = named or ("", "")
    known = library in ("diffusers", "transformers")
    found = getattr(import_module(library), str(name), None) if known else None
    if found is None:
        raise ValueError(f"model_index.json names no usable class for {part}: {named}")
    return found


def empty_parts(folder: Path, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``parts`` that model_index.json leaves out or sets to ``[null, null]``."""
    index = _model_index(folder)
    return tuple(part for part in parts if index.get(part) in (None, [None, None]))


def load_text_encoder(folder: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """A transformers model out of a diffusers folder.

    Raises:
        ValueError: weights are missing; transformers would fill them with random numbers.
        OSError, RuntimeError, SafetensorError: as transformers does for damaged files.
    """
    text_encoder_class: Any = part_class(folder, part)
    text_encoder, found = text_encoder_class.from_pretrained(
        folder, subfolder=part, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    if found["missing_keys"]:
        raise ValueError(f"the weights of {part} lack {sorted(found['missing_keys'])[0]}")
    return text_encoder


def _model_index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index
