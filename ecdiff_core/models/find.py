"""Where the files of a model lie: a folder, a checkpoint file, or the hub's cache, filled if need be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ecdiff_core.errors import PairError
from ecdiff_core.models.hub import MARKS, cached_variant, fetch_configs, fetch_weights, names_of
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.models.single_file import default_config
from ecdiff_core.models.weight_files import choose_variant, part_path

EMBEDDED = "embedded:"
"""Prefix of a model id that ships with the package, as in ``embedded:shapes/cloud``."""
CHECKPOINT = ".safetensors"
"""Suffix of a whole model in one file."""


@dataclass(frozen=True)
class ModelFiles:
    """What a model is loaded from.

    Args:
        folder: a diffusers folder, or one with a denoiser alone; of a checkpoint, the one with its configs.
        variant: of the weight files; None is the plain ones.
        checkpoint: the file with all weights, where they are not in ``folder``.
    """

    folder: Path
    variant: str | None = None
    checkpoint: Path | None = None

    @property
    def source(self) -> Path:
        """What a user knows the model by."""
        return self.checkpoint or self.folder


def is_local(ref: ModelRef) -> bool:
    """Whether an id names a folder or a file, not a repository of the hub."""
    known = ref.id.startswith((EMBEDDED, "/", ".", "~")) or ref.id.count("/") != 1
    return known or is_checkpoint(ref) or local_path(ref).exists()


def is_checkpoint(ref: ModelRef) -> bool:
    """Whether an id names one file that holds a whole model."""
    return ref.id.endswith(CHECKPOINT)


def local_path(ref: ModelRef) -> Path:
    """The folder or file that an id names, be it there or not."""
    if ref.id.startswith(EMBEDDED):
        path = Path(str(resources.files("ecdiff_core"))) / ref.id.removeprefix(EMBEDDED)
    else:
        path = Path(ref.id).expanduser().absolute()
    return path / (ref.subfolder or "")


def is_from(folder: Path, ref: ModelRef) -> bool:
    """Whether a folder is that of a model: the one it names, or its repository's in the hub's cache."""
    if is_local(ref):
        return local_path(ref).resolve() == folder.resolve()
    return f"models--{ref.id.replace('/', '--')}" in folder.absolute().parts


def from_anywhere(ref: ModelRef) -> ModelRef:
    """The same model, named so that it is found from any working folder; a folder has no revision."""
    config = ref.config
    if config is not None and is_local(ModelRef(config)) and not config.startswith(EMBEDDED):
        config = str(local_path(ModelRef(config)))
    if not is_local(ref):
        return replace(ref, config=config)
    where = ref.id if ref.id.startswith(EMBEDDED) else str(local_path(replace(ref, subfolder=None)))
    return replace(ref, id=where, revision=None, config=config)


def find_configs(ref: ModelRef, *, tokenizers: bool = True) -> Path:
    """A folder with a model's config files; of a hub id, they are fetched when they are not cached.

    Args:
        tokenizers: fetch the files of tokenizers as well.

    Raises:
        PairError: there is no such folder, embedded model or reachable hub repository, or no model in it.
    """
    if is_checkpoint(ref):
        return _configs_of_checkpoint(ref)
    folder = local_path(ref)
    if not is_local(ref):
        folder = fetch_configs(ref, tokenizers) / (ref.subfolder or "")
    elif not folder.is_dir():
        advice = "Give a diffusers folder or a hub id (owner/name)."
        raise PairError(f"No model folder at {folder}.", key=str(folder), advice=advice)
    if not any((folder / mark).is_file() for mark in MARKS):
        raise PairError(
            f"{folder} is no diffusers folder: it has no model_index.json, and no unet/, transformer/ or "
            "config.json of a denoiser alone.",
            key=str(folder),
            expected=list(MARKS),
        )
    return folder


def find_weights(ref: ModelRef, folder: Path, parts: Sequence[str]) -> ModelFiles:
    """What a model is loaded from; of a hub id, the weights of ``parts`` are fetched, of one variant.

    Args:
        folder: as ``find_configs`` gave it.

    Raises:
        PairError: the wanted variant is not there, or the hub cannot be reached.
    """
    if is_checkpoint(ref):
        return ModelFiles(folder, checkpoint=local_path(ref))
    here = [part_path(folder, part) for part in parts]
    if is_local(ref):
        return ModelFiles(folder, choose_variant(names_of(here), ref.variant))
    return ModelFiles(folder, fetch_weights(ref, folder, here))


def cached_weights(ref: ModelRef, folder: Path, parts: Sequence[str]) -> ModelFiles:
    """What a hub id would be loaded from, as far as it was fetched before."""
    here = [part_path(folder, part) for part in parts]
    return ModelFiles(folder, cached_variant(ref, here))


def _configs_of_checkpoint(ref: ModelRef) -> Path:
    repository = default_config(local_path(ref))  # also sees to it that the file is there
    if ref.config is not None:
        return find_configs(ModelRef(ref.config))
    try:
        return find_configs(ModelRef(repository))
    except PairError as error:
        raise PairError(
            f"{ref.id} holds weights alone, and the configs that diffusers takes for it ({repository}) are "
            "neither cached nor could be fetched.",
            key=ref.id,
            got=repository,
            advice="Set config to a diffusers folder or hub id of a model of its kind, of which configs and "
            "tokenizers are enough.",
        ) from error
