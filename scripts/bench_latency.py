"""How fast the paper's five pairs are here, beside the paper's Table 6. Needs no weights.

    python scripts/bench_latency.py --compiled --markdown        # on a GPU
    python scripts/bench_latency.py --size reduced               # on a CPU: shows that it works

Builds a pair's cloud and edge model from their configs with random weights, puts random embeddings in the
place of encoded text, and times a cloud call, an edge call, a decode, and whole generations by
ECDiffPipeline: cloud only, edge only, HybridSD with 10 and 25 edge steps, EC-Diff with its row of Table 5
(conf/tuned/). Everything takes turns in one run; figures are medians.

speedup: over cloud only; limit: the speedup if nothing but the model calls took time; ratio: of those two.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import quiet_libraries, run_command

VARIANTS_HELP = (
    "columns of Table 6 to generate by, as 'cloud only,EC-Diff', which must be among them (default: all)"
)


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pair", default="all", metavar="NAME", help="a name in conf/tuned/, or all (default)")
    add("--size", default="full", help="full (default); reduced, for a CPU; tiny, for tests")
    add("--device", help="cpu, cuda, … (default: the accelerator)")
    add("--dtype", help="float32, float16 or bfloat16 (default: the pair's own; on a CPU float32)")
    add("--repeats", type=int, default=3, metavar="N", help="rounds that are timed (default 3)")
    add("--variants", type=lambda text: tuple(text.split(",")), metavar="NAMES", help=VARIANTS_HELP)
    add("--compiled", action="store_true", help="also with both denoisers behind torch.compile")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--json", type=Path, metavar="OUT", help="write every round's seconds to this file, pair by pair")
    return parser.parse_args(arguments)


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    from full_size import table
    from full_size.pairs import BenchmarkError
    from full_size.run import Benchmark, Settings, run

    def save(benchmark: Benchmark) -> None:
        if args.json is not None:
            write_text(args.json, json.dumps(benchmark.tree(), indent=2) + "\n")

    variants = {} if args.variants is None else {"variants": args.variants}
    settings = Settings(
        args.pair, args.size, args.device, args.dtype, args.repeats, args.compiled, **variants
    )
    benchmark = run(settings, save)
    if benchmark.measurements:
        print(table.headline(benchmark.environment))
        draw = table.markdown if args.markdown else table.plain
        print(f"\n{draw(table.CALLS_HEADER, table.calls_rows(benchmark.measurements))}")
        print(f"\n{draw(table.GENERATIONS_HEADER, table.generations_rows(benchmark.measurements))}")
    if benchmark.missing:
        line = "; ".join(f"{name}: {why}" for name, why in benchmark.missing.items())
        raise BenchmarkError(line, key="--pair", got=list(benchmark.missing))


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
