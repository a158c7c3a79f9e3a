"""A model in one ``.safetensors`` file, as diffusers' ``from_single_file`` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ecdiff_core.errors import PairError
from ecdiff_core.models.weight_files import part_path


def default_config(checkpoint: Path) -> str:
    """The hub repository whose configs diffusers takes for a checkpoint, guessed from the tensors' names.

    Raises:
        PairError: the file is not there or damaged.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(_without_data(checkpoint))["pretrained_model_name_or_path"])


def _without_data(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, shapes alone."""
    if not checkpoint.is_file():
        advice = "Give a .safetensors file, a diffusers folder or a hub id."
        raise PairError(f"No checkpoint at {checkpoint}.", key=str(checkpoint), advice=advice)
    try:
        with safe_open(checkpoint, framework="pt") as file:
            return {
                name: torch.empty(file.get_slice(name).get_shape(), device="meta")
                for name in file.keys()  # noqa: SIM118
            }
    except (OSError, SafetensorError) as error:
        line = f"Cannot read {checkpoint}: {error}."
        raise PairError(line, key=str(checkpoint), advice="Fetch it again.") from error


def load_pipeline(
    pipeline_class: Any, checkpoint: Path, configs: Path, dtype: torch.dtype, given: dict[str, Any]
) -> Any:
    """A diffusers pipeline, its weights out of a checkpoint and all else out of a diffusers folder.

    Args:
        given: parts by name; None leaves one out.

    Raises:
        OSError, ValueError, RuntimeError, SafetensorError: as diffusers does for damaged files.
    """
    with _missing_as_value_error():
        return pipeline_class.from_single_file(
            str(checkpoint), config=str(configs), dtype=dtype, local_files_only=True, **given
        )


def load_denoiser(
    model_class: Any, checkpoint: Path, configs: Path, part: str, dtype: torch.dtype
) -> nn.Module:
    """The denoiser alone, which may also be all that the checkpoint holds; raises as ``load_pipeline``."""
    inside = part_path(configs, part) != configs
    with _missing_as_value_error():
        model: nn.Module = model_class.from_single_file(
            str(checkpoint),
            config=str(configs),
            subfolder=part if inside else None,
            dtype=dtype,
            local_files_only=True,
        )
    return model.eval()


@contextmanager
def _missing_as_value_error() -> Iterator[None]:
    """diffusers has an exception of its own for a part that a checkpoint lacks."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        yield
    except SingleFileComponentError as error:
        raise ValueError(str(error)) from error
