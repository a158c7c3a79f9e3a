"""One study by one process and by several ranks on this machine: calls, seconds, and that the rows are equal.

    python scripts/bench_ranks.py [--ranks 1 2] [--command stage1] [--repeats 3] [KEY=VALUE …]

Calls are of one prompt with guidance, counted by hooks on each rank's models. Seconds run from the first
generation to the end: without loading, and without the latency profile, which the first run measures for all.
CPU seconds leave out loading alone. Every process has one thread, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

SETTINGS = [
    "calibration.num_prompts=16",
    "batch_size=4",
    "heldout.num_prompts=0",
    "sampling.num_inference_steps=12",
    "sampling.guidance_scale=3.0",
    "search.k=[1,2,3]",
    "search.alpha=[0.1,0.3,0.5]",
    "device=cpu",
]


def as_rank(report: Path, arguments: list[str]) -> int:
    """Run the command in this process and write what it did to ``report``."""
    from ecdiff_core.io.console import quiet_libraries

    quiet_libraries()
    from ecdiff_tune.__main__ import main
    from ecdiff_tune.evaluation import reference_runs
    from ecdiff_tune.study import process_setup

    did: dict[str, float] = {"cloud": 0, "edge": 0, "seconds": 0.0, "busy": 0.0}
    load, make = process_setup.load_pipe, reference_runs.make

    def load_and_count(spec: Any, pair: Any) -> Any:
        pipe = load(spec, pair)
        did["busy"] = time.process_time()
        for name in ("cloud", "edge"):

            def count(_module: Any, given: Any, _output: Any, name: str = name) -> None:
                did[name] += len(given[0]) / 2  # guidance: every prompt with and without its text

            getattr(pipe.pair, name).register_forward_hook(count)
        return pipe

    def start_and_make(*given: Any, **options: Any) -> Any:
        did.update(cloud=0, edge=0, seconds=time.perf_counter())
        return make(*given, **options)

    # Before anything else imports it by name.
    process_setup.load_pipe, reference_runs.make = load_and_count, start_and_make
    status = main(arguments)
    did["seconds"] = time.perf_counter() - did["seconds"]
    did["busy"] = time.process_time() - did["busy"]
    report.write_text(json.dumps(did))
    return status


def run(count: int, folder: Path, arguments: list[str]) -> list[dict[str, float]]:
    """What each of so many ranks did."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, reports = [], [folder / f"rank{rank}.json" for rank in range(count)]
    for rank, report in enumerate(reports):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        ranks = {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "--as-rank", str(report), *arguments, f"output_dir={folder}"],
                env={"OMP_NUM_THREADS": "1", **os.environ, **ranks},
                stdout=subprocess.DEVNULL,
            )
        )
    statuses = [process.wait() for process in processes]
    if any(statuses):
        raise SystemExit("a rank failed; its message is above")
    return [json.loads(report.read_text()) for report in reports]


def rows(folder: Path) -> list[Any]:
    """The ledger's rows but for their seconds."""
    (path,) = folder.glob("*/default/ledger.sqlite")
    with closing(sqlite3.connect(path)) as database, database:
        found = database.execute("SELECT * FROM measurements ORDER BY 1, 2, 3, 4, 5, 6, 7, 8").fetchall()
    return [row[:-1] for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--command", default="stage1")
    parser.add_argument("--repeats", type=int, default=3)
    args, settings = parser.parse_known_args()
    seconds: dict[int, list[float]] = {count: [] for count in args.ranks}
    busy: dict[int, list[float]] = {count: [] for count in args.ranks}
    calls: dict[int, str] = {}
    first: list[Any] | None = None
    profile: bytes | None = None
    for repeat in range(args.repeats * len(args.ranks)):
        count = args.ranks[repeat % len(args.ranks)]
        folder = Path(tempfile.mkdtemp())
        if profile is not None:  # another profile could lead the search elsewhere
            (folder / "shapes" / "default").mkdir(parents=True)
            (folder / "shapes" / "default" / "latency.json").write_bytes(profile)
        did = run(count, folder, [args.command, *SETTINGS, *settings])
        profile = (folder / "shapes" / "default" / "latency.json").read_bytes()
        first = first or rows(folder)
        assert rows(folder) == first, f"{count} ranks measured something else"
        seconds[count].append(did[0]["seconds"])
        busy[count].append(sum(one["busy"] for one in did))
        calls[count] = " + ".join(f"{one['cloud']:.0f}/{one['edge']:.0f}" for one in did)
        shutil.rmtree(folder)
    print(f"{len(first or [])} rows of the ledger, equal in all runs; {os.cpu_count()} cores")
    print("| ranks | cloud/edge calls, rank by rank | seconds | CPU seconds of all |\n|---|---|---|---|")
    for count, found in seconds.items():
        spread = f"{statistics.median(found):.1f} ({min(found):.1f} … {max(found):.1f})"
        print(f"| {count} | {calls[count]} | {spread} | {statistics.median(busy[count]):.1f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        sys.exit(as_rank(Path(sys.argv[2]), sys.argv[3:]))
    main()
