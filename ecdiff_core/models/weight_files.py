"""Which files of a model's part are loaded: the plain ones, or those of a variant such as ``fp16``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ecdiff_core.errors import PairError

AUTO = "auto"
"""As a variant: the plain files where every part has them, else the variant that is there."""
_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z_]\w*))?(?:-\d+-of-\d+)?(?:\.(?P<older>[A-Za-z_]\w*))?"
    r"\.(?P<kind>safetensors|bin)"
)
"""A variant stands before the number of a shard; in older releases of diffusers, behind it."""
_DENOISERS = ("unet", "transformer")


def part_path(folder: Path, part: str) -> Path:
    """Where the files of a part lie: in its own folder, or, of a denoiser alone, in the model's."""
    inside = folder / part
    alone = part in _DENOISERS and not inside.is_dir() and not (folder / "model_index.json").is_file()
    return folder if alone and (folder / "config.json").is_file() else inside


def by_variant(names: Iterable[str]) -> dict[str | None, list[str]]:
    """The weight files among some names, by variant (None is plain); of two kinds, safetensors.

    >>> by_variant(["model.bin", "model.safetensors", "model.fp16.bin", "config.json"])
    {None: ['model.safetensors'], 'fp16': ['model.fp16.bin']}
    """
    found: dict[str | None, dict[str, list[str]]] = {}
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match:
            kinds = found.setdefault(match["variant"] or match["older"], {})
            kinds.setdefault(match["kind"], []).append(name)
    return {
        variant: kinds.get("safetensors") or kinds["bin"]
        for variant, kinds in sorted(found.items(), key=lambda item: item[0] or "")
    }


def choose_variant(parts: Mapping[Path, Iterable[str]], wanted: str | None) -> str | None:
    """The variant that a model is loaded with; parts that lack it are loaded from their plain files.

    Args:
        parts: the names of the files of each part, by its folder.
        wanted: a variant; None for the plain files; ``AUTO``.

    Returns:
        None for the plain files, also where no variant is complete.

    Raises:
        PairError: no part has the wanted variant, or ``AUTO`` has several to choose from, none of them fp16.
    """
    found = {part: by_variant(names) for part, names in parts.items()}
    there = sorted({variant for each in found.values() for variant in each if variant is not None})
    if wanted is None:
        return None
    if wanted != AUTO:
        if wanted not in there:
            where = [str(part) for part in found]
            others = f"there are {', '.join(there)}" if there else "there are plain files alone"
            raise PairError(
                f"No weights of the variant {wanted} in {', '.join(where)}: {others}.",
                key="variant",
                got=wanted,
                expected=there,
                advice="Set variant to auto.",
            )
        return wanted
    if all(None in each for each in found.values()):
        return None
    complete = [v for v in there if all(v in each or None in each for each in found.values())]
    if len(complete) > 1 and "fp16" not in complete:
        raise PairError(
            f"{next(iter(found))} has the variants {', '.join(complete)} and no plain weights: "
            "set variant to one of them.",
            key="variant",
            expected=complete,
        )
    return ("fp16" if "fp16" in complete else complete[0]) if complete else None


def weight_files(folder: Path, part: str, variant: str | None = None) -> list[Path]:
    """The config and the weights of a part, as they would be loaded.

    Args:
        variant: None for the plain files, which also stand in where a part lacks the variant.

    Raises:
        PairError: one of them is missing.
    """
    here = part_path(folder, part)
    found = by_variant(path.name for path in here.glob("*"))
    names = found.get(variant) or found.get(None)
    if not names:
        line = f"No weights in {here}: {_expected_weights(found)}"
        raise PairError(line, key=str(here), got=sorted(name for names in found.values() for name in names))
    config = here / "config.json"
    if not config.is_file():
        raise missing_file(config)
    return [config, *(here / name for name in names)]


def missing_file(path: Path) -> PairError:
    """The error of a part that a diffusers folder lacks."""
    return PairError(f"Missing {path}: the model folder is not complete.", key=str(path))


def _expected_weights(found: Mapping[str | None, list[str]]) -> str:
    if found:
        variant, names = next(iter(found.items()))
        return f"{names[0]} is a variant. Set variant to {variant}, or to auto."
    return "expected a .safetensors file there."
