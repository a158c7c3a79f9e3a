"""The parts of a diffusers folder, as its model_index.json names them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ecdiff_core.models.weight_files import by_variant, part_path, weight_files


def part_class(folder: Path, part: str) -> type:
    """The class that model_index.json names for a part; of a denoiser alone, the one of its config.json.

    Raises:
        ValueError: it names none that diffusers or transformers has.
    """
    index = folder / "model_index.json"
    if index.is_file():
        source, named = index.name, _read(index).get(part)
    else:
        source, named = "config.json", ("diffusers", _own_class(part_path(folder, part)))
    library, name = named or ("", "")
    known = library in ("diffusers", "transformers")
    found = getattr(import_module(library), str(name), None) if known else None
    if found is None:
        raise ValueError(f"{source} names no usable class for {part}: {named}")
    return found


def _own_class(part: Path) -> Any:
    config = part / "config.json"
    return _read(config).get("_class_name") if config.is_file() else None


def empty_parts(folder: Path, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``parts`` that model_index.json leaves out or sets to ``[null, null]``."""
    index = _read(folder / "model_index.json")
    return tuple(part for part in parts if index.get(part) in (None, [None, None]))


def load_part(folder: Path, part: str, dtype: torch.dtype, variant: str | None = None) -> nn.Module:
    """A model of diffusers or transformers out of a diffusers folder, from ``weight_files``.

    Raises:
        ValueError: weights of a transformers model are missing, which would be filled with random numbers.
        OSError, RuntimeError, SafetensorError: as the libraries do for damaged files.
        PairError: as ``weight_files``.
    """
    model_class: Any = part_class(folder, part)
    config, *weights = weight_files(folder, part, variant)
    given = {
        "dtype": dtype,
        "variant": variant if variant in by_variant(path.name for path in weights) else None,
        "use_safetensors": weights[0].suffix == ".safetensors",  # else the libraries try it, and complain
        "local_files_only": True,
    }
    if not is_transformers(model_class):
        model: nn.Module = model_class.from_pretrained(config.parent, **given)
        return model.eval()
    text_encoder, found = model_class.from_pretrained(config.parent, **given, output_loading_info=True)
    if found["missing_keys"]:
        raise ValueError(f"the weights of {part} lack {sorted(found['missing_keys'])[0]}")
    return text_encoder


def is_transformers(model_class: type) -> bool:
    """Whether a part is a model of transformers, else one of diffusers."""
    return issubclass(model_class, PreTrainedModel)


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree
