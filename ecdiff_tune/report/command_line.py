"""Command lines that a user can copy."""

from __future__ import annotations

import shlex
from pathlib import Path

from ecdiff_tune.config import Settings


def command(name: str, settings: Settings, known_pairs: Path) -> str:
    """A command line that goes on with the study.

    Args:
        known_pairs: the folder of the pairs that have a config of their own.
    """
    pair = settings.pair.name
    named = (
        [f"pair={pair}"] if (known_pairs / f"{pair}.yaml").is_file() else ["pair=custom", f"pair.name={pair}"]
    )
    defaults = Settings()
    for key in ("study", "output_dir"):
        if getattr(settings, key) != getattr(defaults, key):
            named.append(f"{key}={getattr(settings, key)}")
    return shlex.join(["python", "-m", "ecdiff_tune", name, *named])
