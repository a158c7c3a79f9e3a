"""VBench for a tuned video pair: make the videos that it evaluates, and add up what it found.

    python scripts/vbench.py export --config conf/tuned/cogvideox_5b_2b.yaml \\
        --prompts VBench_full_info.json --out outputs/vbench/ours
    vbench evaluate --videos_path outputs/vbench/ours/videos --dimension …      # VBench's own program
    python scripts/vbench.py score ours=results/ours cloud=results/cloud --out outputs/vbench

``export --mode cloud`` (edge, hybrid) makes the videos of the other rows of the paper's Tables 3 and 4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.video import FPS
from ecdiff_core.sampling.plan import Mode


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("export", help="make the videos").add_argument
    add("--config", type=Path, required=True, metavar="YAML", help="tuned config of a video pair")
    add("--prompts", type=Path, required=True, metavar="FILE", help="VBench_full_info.json or a text file")
    add("--out", type=Path, required=True, metavar="DIR", help="for videos/, videos.jsonl and export.json")
    add("--mode", choices=get_args(Mode), default="ecdiff", help="as tuned, or a baseline (default ecdiff)")
    add("--samples", type=int, default=5, metavar="N", help="videos a prompt (default 5, as VBench wants)")
    add("--first", type=int, metavar="N", help="only the first N prompts")
    add("--seed", type=int, default=0, help="that all videos' seeds come from (default 0)")
    add("--batch-size", type=int, default=1, metavar="N", help="videos at a time (default 1)")
    add("--fps", type=int, default=FPS, metavar="N", help=f"frames a second (default {FPS})")
    add("--device", help="cpu, cuda, … (default: the accelerator if there is one)")
    add("--dtype", help="float32, float16 or bfloat16 (default: the config's)")
    add("--any-weights", action="store_true", help="accept weights that the config was not tuned for")
    add = commands.add_parser("score", help="quality, semantic and total score").add_argument
    add("results", nargs="+", metavar="[NAME=]PATH", help="a result file of VBench's, or a folder of them")
    add("--partial", action="store_true", help="the dimensions that are there, without totals")
    add("--out", type=Path, metavar="DIR", help="write vbench.csv, vbench.md and vbench.tex there")
    return parser.parse_args(arguments)


def export(args: argparse.Namespace) -> None:
    quiet_libraries()
    from vbench_suite.export import Request
    from vbench_suite.export import export as make_videos

    make_videos(
        Request(
            args.config,
            args.prompts,
            args.out,
            mode=args.mode,
            samples=args.samples,
            seed=args.seed,
            first=args.first,
            batch_size=args.batch_size,
            fps=args.fps,
            device=args.device,
            dtype=args.dtype,
            check_weights=not args.any_weights,
        ),
        log=lambda line: print(line, flush=True),
    )


def score(args: argparse.Namespace) -> None:
    from vbench_suite import table

    for line in table.write(args.results, args.out, args.partial):
        print(line)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    work = {"export": export, "score": score}[args.command]
    return run_command(lambda: work(args), "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
