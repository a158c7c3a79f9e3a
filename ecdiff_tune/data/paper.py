"""The paper's own configs, the rows of its Table 5."""

from __future__ import annotations

from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_tune.data.conf_folder import config_folder


def paper_files() -> list[Path]:
    """The YAML of every row."""
    return sorted((config_folder() / "tuned").glob("*.yaml"))


def paper_config(pair: str) -> TunedConfig | None:
    """The row of a pair; None where the paper has none."""
    found = [path for path in paper_files() if path.stem == pair]
    return TunedConfig.load(found[0]) if found else None
