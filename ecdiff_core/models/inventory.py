"""Which files a model is loaded from, how large they are, and how many parameters they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from ecdiff_core.errors import PairError, first_line
from ecdiff_core.models.compatibility import read_config
from ecdiff_core.models.families.parts import is_transformers, part_class
from ecdiff_core.models.find import ModelFiles
from ecdiff_core.models.quantized import quant_method
from ecdiff_core.models.weight_files import part_path, weight_files


@dataclass(frozen=True)
class Part:
    """A part of a model, or all that are read from one checkpoint.

    Args:
        name: of the part, or of those parts, with commas between.
        files: their names; empty where they are still to be fetched.
        parameters: as its config tells, however they are stored.
        quantized: by what, or None.
    """

    name: str
    files: tuple[str, ...]
    size_bytes: int
    parameters: int
    quantized: str | None = None


def inventory(model: ModelFiles, parts: Sequence[str]) -> list[Part]:
    """Those parts of a model, nothing of whose weights is read.

    Raises:
        PairError: a config file cannot be used.
    """
    if model.checkpoint is not None:
        parameters = sum(count_parameters(model.folder, part) for part in parts)
        file = model.checkpoint
        return [Part(", ".join(parts), (file.name,), file.stat().st_size, parameters)]
    return [
        Part(
            part,
            tuple(path.name for path in paths),
            sum(path.stat().st_size for path in paths),
            count_parameters(model.folder, part),
            quant_method(model.folder, part),
        )
        for part in parts
        for paths in [fetched(model, part)]
    ]


def fetched(model: ModelFiles, part: str) -> list[Path]:
    """The files of a part's weights; empty where they are still to be fetched."""
    try:
        return weight_files(model.folder, part, model.variant)[1:]
    except PairError:
        return []


def count_parameters(folder: Path, part: str) -> int:
    """How many parameters a part has, by its config.

    Raises:
        PairError: the config cannot be used.
    """
    config = read_config(folder, part)
    config.pop("quantization_config", None)
    try:
        model_class: Any = part_class(folder, part)
        with init_empty_weights(), torch.no_grad():
            model: nn.Module = (
                model_class(model_class.config_class.from_dict(config))
                if is_transformers(model_class)
                else model_class.from_config(config)
            )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        path = part_path(folder, part) / "config.json"
        raise PairError(f"{path} cannot be used: {first_line(error)}.", key=str(path)) from error
    return sum(parameter.numel() for parameter in model.parameters())


def larger_edge(cloud: int, edge: int) -> list[str]:
    """A line where the edge has more parameters than the cloud, which is seldom what is meant.

    >>> larger_edge(2_000_000, 1_000_000)
    []
    """
    if edge <= cloud:
        return []
    return [
        f"the edge is larger than the cloud ({edge / 1e6:.1f} M parameters, {cloud / 1e6:.1f} M): "
        "are the two swapped?"
    ]
