"""``check``: can these two models work together? Told from their configs, before any weights are read."""

from __future__ import annotations

from ecdiff_core.errors import PairError
from ecdiff_core.model_folder import check_parts
from ecdiff_core.find import find_configs
from ecdiff_core.pair_files import common_family
from ecdiff_core.preflight import NEEDS_MATCHED, Row, Verdict, compare
from ecdiff_tune.settings import Settings


def check(settings: Settings) -> None:
    """Print a row a property with its verdict, and what follows from them.

    Raises:
        PairError: a model cannot be found or lacks a part, or the two cannot work together.
    """
    spec = settings.pair_spec()
    cloud, edge = find_configs(spec.cloud), find_configs(spec.edge)
    family = common_family(cloud, edge)
    check_parts(cloud, family)
    rows = compare(cloud, edge, family)
    print(f"cloud {cloud}\nedge  {edge}\nfamily {family.__name__} ({family.pipeline_class.__name__})\n")
    print("\n".join(table(rows)))
    refused = [row.name for row in rows if row.verdict is Verdict.REFUSED]
    if refused:
        raise PairError(f"These two cannot work together: {', '.join(refused)}. Choose another edge model.")
    if any(row.why == NEEDS_MATCHED for row in rows):
        print("\nThese two can work together, but only with sampling.handoff_adapter=matched.")
    elif any(row.verdict is Verdict.CONVERTIBLE for row in rows):
        print("\nThese two can work together with sampling.handoff_adapter=matched.")
    else:
        print("\nThese two can work together.")


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of aligned columns."""
    cells = [("property", "cloud", "edge", "verdict", "")]
    cells += [(row.name, row.cloud, row.edge, row.verdict.value, row.why) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]) for line in cells
    ]
    return [line.rstrip() for line in lines]
