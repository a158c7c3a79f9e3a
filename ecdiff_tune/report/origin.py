"""Where a study's numbers come from, and the commands that make more of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.settings import Settings
from ecdiff_tune.study.folder import flat


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


def provenance(data: StudyData) -> list[tuple[str, str]]:
    """Key and value of everything that the numbers depend on."""
    record = data.record
    told: Mapping[str, Any] = {name: one for name, one in data.provenance.items() if name != "tied"}
    pair, sampling = data.config.pair, data.config.sampling
    tree = {
        **{name: one for name, one in pair.tree().items() if name != "name"},
        "sampling": {name: one for name, one in vars(sampling).items() if one is not None},
        **told,
    }
    found = [(key, _shown(value)) for key, value in flat(tree).items() if value is not None]
    found.append(("winner", data.source or "the best config of the ledger"))
    if len(record.heldout):
        found.append(("heldout.digest", record.heldout.digest))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
