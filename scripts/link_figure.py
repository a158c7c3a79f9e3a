"""Where the seconds of an image go on two machines, drawn from what scripts/bench_link.py measured.

python scripts/link_figure.py outputs/link.json --out docs/link.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.io.console import run_command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "server": ("cloud's calls and encoding", "#4c72b0"),
    "link": ("link", "#c44e52"),
    "edge": ("edge's calls", "#55a868"),
    "decode": ("decoder", "#8c8c8c"),
}
"""Of a row, from left to right."""


def draw(rows: dict[str, dict[str, Any]]) -> Figure:
    """A bar a plan, its parts in turn, and a mark where the forecast is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        begin = 0.0
        for part, (label, colour) in PARTS.items():
            shown = label if place == 0 else None
            axes.barh(place, row[part], left=begin, color=colour, height=0.6, label=shown)
            begin += row[part]
        shown = "forecast" if place == 0 else None
        axes.plot([row["forecast"]] * 2, [place - 0.4, place + 0.4], color="black", label=shown)
        axes.text(max(begin, row["forecast"]), place, f"  {begin:.2f} s", va="center")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds of an image (lower is better)")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize="small")
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="that bench_link.py wrote")
    parser.add_argument("--out", type=Path, default=Path("outputs/link.png"), metavar="PNG")
    args = parser.parse_args(arguments)

    def run() -> None:
        rows = json.loads(args.json.read_text(encoding="utf-8"))["rows"]
        with replacing(args.out, ".png") as part:
            draw(rows).savefig(part, dpi=110)
        print(f"wrote {args.out}")

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
