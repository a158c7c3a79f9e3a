"""Where the files of a model lie: a folder, a checkpoint file, or the hub's cache, filled if need be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

from ecdiff_core.errors import PairError
from ecdiff_core.pair_spec import ModelRef
from ecdiff_core.single_file import default_config
from ecdiff_core.weight_files import AUTO, by_variant, choose_variant, part_path

EMBEDDED = "embedded:"
"""Prefix of a model id that ships with the package, as in ``embedded:shapes/cloud``."""
CHECKPOINT = ".safetensors"
"""Suffix of a whole model in one file."""
_MARKS = ("model_index.json", "unet/config.json", "transformer/config.json", "config.json")
"""One of these makes a folder a model's: a whole one, or a denoiser alone."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"-\d+-of-0*(\d+)")


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
        folder = _fetch_configs(ref, tokenizers) / (ref.subfolder or "")
    elif not folder.is_dir():
        raise PairError(f"No model folder at {folder}. Give a diffusers folder or a hub id (owner/name).")
    if not any((folder / mark).is_file() for mark in _MARKS):
        raise PairError(
            f"{folder} is no diffusers folder: it has no model_index.json, and no unet/, transformer/ or "
            "config.json of a denoiser alone."
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
    wanted = ref.variant
    if is_local(ref):
        return ModelFiles(folder, choose_variant(_names(here), wanted))
    if wanted == AUTO and ref.fingerprint is not None:
        wanted = None  # a config that was tuned with a variant names it
    if not _complete(_names(here), wanted):
        listed = _listed(ref, folder, here)
        if listed is not None:
            _fetch_weights(ref, folder, listed, wanted)
        elif not _usable(_names(here), wanted):
            raise cannot_get(ref)
    return ModelFiles(folder, choose_variant(_names(here), wanted))


def cached_weights(ref: ModelRef, folder: Path, parts: Sequence[str]) -> ModelFiles:
    """What a hub id would be loaded from, as far as it was fetched before."""
    here = [part_path(folder, part) for part in parts]
    wanted = None if ref.variant == AUTO and ref.fingerprint is not None else ref.variant
    return ModelFiles(folder, choose_variant(_names(here), wanted) if _usable(_names(here), wanted) else None)


def _configs_of_checkpoint(ref: ModelRef) -> Path:
    repository = default_config(local_path(ref))  # also sees to it that the file is there
    if ref.config is not None:
        return find_configs(ModelRef(ref.config))
    try:
        return find_configs(ModelRef(repository))
    except PairError as error:
        raise PairError(
            f"{ref.id} holds weights alone, and the configs that diffusers takes for it ({repository}) are "
            "neither cached nor could be fetched. Set config to a diffusers folder or hub id of a model of "
            "its kind, of which configs and tokenizers are enough."
        ) from error


def cannot_get(ref: ModelRef) -> PairError:
    """The error that says what to do where the hub cannot be reached."""
    command = f"hf download {ref.id}" + (f" --revision {ref.revision}" if ref.revision else "")
    return PairError(
        f"Cannot get {ref.id}: it is no folder ({local_path(ref)}), not in the hub's cache "
        f"({constants.HF_HUB_CACHE}), and could not be fetched (no network, a wrong id, or a gated model "
        f"without a login). Run `{command}` where there is a network, or give a folder."
    )


def _fetch_configs(ref: ModelRef, tokenizers: bool) -> Path:
    patterns = ["*.json", *(["tokenizer*/*"] if tokenizers else [])]
    try:
        return Path(snapshot_download(ref.id, revision=ref.revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        cached = _cached_snapshot(ref)
        if cached is None:
            raise cannot_get(ref) from error
        return cached


def _cached_snapshot(ref: ModelRef) -> Path | None:
    """What was fetched before, which may be less than all configs: what is needed is looked for later."""
    for mark in _MARKS:
        name = f"{ref.subfolder}/{mark}" if ref.subfolder else mark
        try:
            found = try_to_load_from_cache(ref.id, name, revision=ref.revision)
        except ValueError:  # no id that the hub could have
            return None
        if isinstance(found, str):
            return Path(found.removesuffix(name))
    return None


Names = Mapping[Path, Sequence[str]]
"""Of the files of each part, by its folder."""


def _names(parts: Sequence[Path]) -> Names:
    return {part: [path.name for path in part.glob("*")] for part in parts}


def _complete(names: Names, wanted: str | None) -> bool:
    """Whether nothing is left to fetch."""
    if wanted != AUTO:
        return all(_whole(by_variant(each).get(wanted)) for each in names.values())
    there = {variant for each in names.values() for variant in by_variant(each)}
    return any(_usable(names, variant) for variant in there)


def _usable(names: Names, variant: str | None) -> bool:
    """Whether each part has files of the variant, or plain ones in their place."""
    found = [by_variant(each) for each in names.values()]
    return all(_whole(each.get(variant)) or _whole(each.get(None)) for each in found)


def _whole(files: Sequence[str] | None) -> bool:
    """Whether there are files, and no shard is missing."""
    shards = [int(match[1]) for name in files or () for match in _SHARD.finditer(name)]
    return bool(files) and all(count == len(shards) for count in shards)


def _listed(ref: ModelRef, folder: Path, parts: Sequence[Path]) -> Names | None:
    """The names in the repository; None where it cannot be reached."""
    try:
        files = snapshot_download(ref.id, revision=_revision(ref, folder), dry_run=True)
    except (OSError, ValueError):
        return None
    paths = [_root(ref, folder) / file.filename for file in files]
    return {part: [path.name for path in paths if path.parent == part] for part in parts}


def _fetch_weights(ref: ModelRef, folder: Path, listed: Names, wanted: str | None) -> None:
    variant, root = choose_variant(listed, wanted), _root(ref, folder)
    files = [
        (part / name).relative_to(root).as_posix()
        for part, names in listed.items()
        for found in [by_variant(names)]
        for name in found.get(variant) or found.get(None) or []
    ]
    try:
        snapshot_download(ref.id, revision=_revision(ref, folder), allow_patterns=files)
    except (OSError, ValueError) as error:
        raise cannot_get(ref) from error


def _root(ref: ModelRef, folder: Path) -> Path:
    return Path(str(folder).removesuffix(f"/{ref.subfolder}")) if ref.subfolder else folder


def _revision(ref: ModelRef, folder: Path) -> str | None:
    """The commit whose configs were found, so that the weights are of the same one."""
    commit = _root(ref, folder).name
    return commit if _COMMIT.fullmatch(commit) else ref.revision
