"""Models of the hub: configs first, then the weight files of one variant, into the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

from ecdiff_core.errors import PairError
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.models.weight_files import AUTO, by_variant, choose_variant

MARKS = ("model_index.json", "unet/config.json", "transformer/config.json", "config.json")
"""One of these makes a folder a model's: a whole one, or a denoiser alone."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"-\d+-of-0*(\d+)")
Names = Mapping[Path, Sequence[str]]
"""Of the files of each part, by its folder."""


def fetch_configs(ref: ModelRef, tokenizers: bool) -> Path:
    """The folder of a repository in the cache, with its config files.

    Raises:
        PairError: they are not cached, and the hub cannot be reached.
    """
    patterns = ["*.json", *(["tokenizer*/*"] if tokenizers else [])]
    try:
        return Path(snapshot_download(ref.id, revision=ref.revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        cached = _cached_snapshot(ref)
        if cached is None:
            raise cannot_get(ref) from error
        return cached


def fetch_weights(ref: ModelRef, folder: Path, parts: Sequence[Path]) -> str | None:
    """See to it that the weights of those parts are in the cache; the variant that they are of.

    Args:
        folder: of the model, as ``fetch_configs`` gave it, with the subfolder.
        parts: the folders of the parts.

    Raises:
        PairError: the wanted variant is not there, or the hub cannot be reached.
    """
    wanted = _wanted(ref)
    if not _complete(names_of(parts), wanted):
        listed = _listed(ref, folder, parts)
        if listed is not None:
            _fetch(ref, folder, listed, wanted)
        elif not _usable(names_of(parts), wanted):
            raise cannot_get(ref)
    return choose_variant(names_of(parts), wanted)


def cached_variant(ref: ModelRef, parts: Sequence[Path]) -> str | None:
    """The variant that is in the cache; None also where nothing is."""
    names, wanted = names_of(parts), _wanted(ref)
    return choose_variant(names, wanted) if _complete(names, wanted) else None


def _wanted(ref: ModelRef) -> str | None:
    """A config that was tuned with a variant names it: one with a fingerprint and none means plain files."""
    return None if ref.variant == AUTO and ref.fingerprint is not None else ref.variant


def _cached_snapshot(ref: ModelRef) -> Path | None:
    """What was fetched before, which may be less than all configs: what is needed is looked for later."""
    for mark in MARKS:
        name = f"{ref.subfolder}/{mark}" if ref.subfolder else mark
        try:
            found = try_to_load_from_cache(ref.id, name, revision=ref.revision)
        except ValueError:  # no id that the hub could have
            return None
        if isinstance(found, str):
            return Path(found.removesuffix(name))
    return None


def names_of(parts: Sequence[Path]) -> Names:
    """The names of the files in those folders."""
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


def _fetch(ref: ModelRef, folder: Path, listed: Names, wanted: str | None) -> None:
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


def cannot_get(ref: ModelRef) -> PairError:
    """The error that says what to do where the hub cannot be reached."""
    command = f"hf download {ref.id}" + (f" --revision {ref.revision}" if ref.revision else "")
    return PairError(
        f"Cannot get {ref.id}: it is no folder ({Path(ref.id).absolute()}), not in the hub's cache "
        f"({constants.HF_HUB_CACHE}), and could not be fetched (no network, a wrong id, or a gated model "
        "without a login).",
        key=ref.id,
        got=ref.revision,
        advice=f"Run `{command}` where there is a network, or give a folder.",
    )
