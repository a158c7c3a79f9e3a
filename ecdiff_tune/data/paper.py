"""The paper's own configs, the rows of its Table 5."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_tune.data.conf_folder import config_folder

SOURCE = "EC-Diff (arXiv 2507.11980)"
"""How ``provenance.source`` of a row begins; beside them lie configs that this project tuned."""


def paper_files() -> list[Path]:
    """The YAML of every row."""
    return list(_rows(config_folder()))


@cache
def _rows(folder: Path) -> dict[Path, TunedConfig]:
    """The rows in the folder of all configs; a search asks for them at every turn."""
    found = {path: TunedConfig.load(path) for path in sorted((folder / "tuned").glob("*.yaml"))}
    return {
        path: config
        for path, config in found.items()
        if str((config.provenance or {}).get("source", "")).startswith(SOURCE)
    }


def paper_config(pair: str) -> TunedConfig | None:
    """The row of a pair; None where the paper has none."""
    return next((config for path, config in _rows(config_folder()).items() if path.stem == pair), None)
