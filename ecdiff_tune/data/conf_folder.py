"""Where the Hydra configs are."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """conf/: beside the packages in a checkout, inside this package when installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
