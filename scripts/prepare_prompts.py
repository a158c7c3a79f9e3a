"""Prompts for ``calibration.file=``: drawn by a seed from a data set that you have, each with its id.

    python scripts/prepare_prompts.py captions_train2014.json --out coco.jsonl      # one caption an image
    python scripts/prepare_prompts.py results_2M_train.csv --out webvid.jsonl       # WebVid
    python scripts/prepare_prompts.py VBench_full_info.json --out vbench.jsonl
    python scripts/prepare_prompts.py mine.parquet --column caption --id-column key --out mine.csv

150 prompts unless told otherwise: the tuner's 100 to tune on and 50 to check on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ecdiff_core.io.console import run_command


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, help="captions of COCO, csv of WebVid, VBench_full_info.json, or any table")
    add("--out", type=Path, required=True, metavar="FILE", help="jsonl or csv to write")
    add("--count", type=int, default=150, metavar="N", help="prompts (default 150)")
    add("--heldout", type=int, default=0, metavar="N", help="so many others, to FILE_heldout (default 0)")
    add("--seed", type=int, default=0, help="of the draw (default 0)")
    add("--column", help="of the prompts in a table (default: prompt, caption or text)")
    add("--id-column", metavar="COLUMN", help="of their ids (default: videoid or id, else the row's number)")
    return parser.parse_args(arguments)


def prepare(args: argparse.Namespace) -> None:
    import prompt_sources

    request = prompt_sources.Request(
        args.source, args.out, args.count, args.heldout, args.seed, args.column, args.id_column
    )
    for line in prompt_sources.prepare(request):
        print(line)
    print(f"next: python -m ecdiff_tune tune pair=… calibration.file={args.out}")


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: prepare(args))


if __name__ == "__main__":
    sys.exit(main())
