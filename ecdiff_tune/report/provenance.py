"""Where a study's numbers come from, in keys and values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study.folder import flat


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
