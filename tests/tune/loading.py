"""Pairs that were loaded once are copied where the same files are loaded again: that takes a quarter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ecdiff_core.models.pair import Pair
from ecdiff_core.models.pair_spec import PairSpec
from ecdiff_tune.study import process_setup


def load_once(patch: pytest.MonkeyPatch) -> None:
    """Of models in folders; what a test does to a pair, it does to a copy."""
    load = process_setup.load_pair
    loaded: dict[str, Pair] = {}

    def load_or_copy(spec: PairSpec, **settings: Any) -> Pair:
        folders = [Path(ref.id) for ref in (spec.cloud, spec.edge)]
        if spec.lora or not all(folder.is_absolute() and folder.is_dir() for folder in folders):
            return load(spec, **settings)
        key = repr((spec, settings, [_stamps(folder) for folder in folders]))
        if key not in loaded:
            loaded[key] = load(spec, **settings)
        return copy.deepcopy(loaded[key])

    patch.setattr(process_setup, "load_pair", load_or_copy)


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    found = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]
