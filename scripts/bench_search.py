"""What every search finds and what it costs, on one pair, one grid and one set of prompts.

    python scripts/bench_search.py                                    # the shapes pair, 100 prompts: hours
    python scripts/bench_search.py --num-prompts 20 --searches joint predict exact
    python scripts/bench_search.py --num-prompts 40 --json found.json device=cuda batch_size=40   # minutes
    python scripts/bench_search.py --num-prompts 4 --steps 12 search.k=[1,2]   # shows that it works

Every search has a study of its own in --outputs; the reference images and the latency profile are made
once, and their calls are counted in full for each. Stopped at any moment, the same command goes on from
there; the calls of a trial that was under way are then missing, and the table tells how many runs it took.

The optimum that regret is measured against is that of the whole joint grid: of `exhaustive`, which generates
every config, or of `exact`, which leaves out those that could not reach the best found even if every prompt
that they were not generated on had an SSIM of 1. Where neither was run, the best found stands in its place.

Edge calls count by their time (edge call / cloud call of the latency profile): *cloud-call equivalents*.
Settings (KEY=VALUE) go to every search. FILE is a list of rows, one a search that is done, in the columns of
bench_search.csv; it grows with every search.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ecdiff_core.io.console import quiet_libraries, run_command

OUTPUTS = Path("outputs/bench_search")


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--num-prompts", type=int, default=100, metavar="N", help="to tune on (default 100)")
    add("--heldout", type=int, default=50, metavar="N", help="more to measure winners on (default 50)")
    add("--steps", type=int, default=50, metavar="T", help="sampling steps (default 50)")
    add("--trials", type=int, default=50, metavar="N", help="of optuna (default 50)")
    add("--searches", nargs="+", metavar="NAME", help="which, in this order (default: all)")
    add("--outputs", type=Path, default=OUTPUTS, metavar="DIR", help=f"for all that is made ({OUTPUTS})")
    add(
        "--latency",
        type=Path,
        metavar="FILE",
        help="a latency.json of this pair to go by (default: measured)",
    )
    add("--json", type=Path, metavar="FILE", help="write the table's rows to this file, search by search")
    add("--table-only", action="store_true", help="run nothing: the table of what is there")
    args, settings = parser.parse_known_args(arguments)
    names: list[str] = args.searches or []  # argparse takes what follows them for names too
    args.settings = settings + [one for one in names if "=" in one]
    args.searches = [one for one in names if "=" not in one] or None
    for one in settings:
        if one.startswith("-") or "=" not in one:
            parser.error(f"expected KEY=VALUE, got {one!r}")
    return args


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    from search_bench import runs, table

    chosen = runs.choose(args.searches)
    setup = runs.Setup(
        args.outputs, args.num_prompts, args.heldout, args.steps, args.trials, args.latency, args.settings
    )
    for name in chosen if not args.table_only else ():
        runs.run(setup, name)
        if args.json is not None:
            table.write_json(args.json, runs.finished(setup, chosen))
    found = runs.finished(setup, chosen)
    if args.json is not None:
        table.write_json(args.json, found)
    for path in table.write(args.outputs, found):
        print(f"wrote {path}")
    for line in table.describe(found, args.num_prompts):
        print(line)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: bench(args), "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
