"""Command lines that a user can copy."""

from __future__ import annotations

import shlex
from pathlib import Path

from ecdiff_tune.study.spec import StudySpec


def command(name: str, spec: StudySpec, known_pairs: Path) -> str:
    """A command line that goes on with the study.

    Args:
        known_pairs: the folder of the pairs that have a config of their own.
    """
    pair = spec.pair.name
    named = (
        [f"pair={pair}"] if (known_pairs / f"{pair}.yaml").is_file() else ["pair=custom", f"pair.name={pair}"]
    )
    for key in ("study", "output_dir"):
        if spec.settings[key] != spec.defaults[key]:
            named.append(f"{key}={spec.settings[key]}")
    return shlex.join(["python", "-m", "ecdiff_tune", name, *named])
