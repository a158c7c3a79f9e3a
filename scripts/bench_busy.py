"""Seconds of a cloud and an edge call on an idle machine and beside busy processes, by how threads wait.

    python scripts/bench_busy.py --json outputs/busy.json

A row is a way to wait: ``unset`` is OpenMP's own, ``active`` spins, ``passive`` is what commands set. A
column is a number of other processes that compute without end. Each cell is a process of its own, which
measures the embedded pair's latency profile as a study does. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.threads import CHOSEN_BY, WAIT_POLICY, share_cores

POLICIES = ("unset", "active", "passive")
BUSY = (0, 1, 2)
Cell = dict[str, Any]


class BenchmarkError(ECDiffError):
    """A measurement failed."""


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write every cell's latency profile to this file")
    add("--busy", type=int, nargs="+", default=BUSY, metavar="N", help="other processes (default 0 1 2)")
    add("--policies", nargs="+", choices=POLICIES, default=POLICIES, help="ways to wait (default all)")
    add("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """That many processes that compute without end, ended with the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield processes
    finally:
        for one in processes:
            one.kill()
            one.wait()


def environment(policy: str, given: Mapping[str, str]) -> dict[str, str]:
    """Of a process that waits that way; ``passive`` is left to what the command lines do."""
    kept = {name: value for name, value in given.items() if name not in (WAIT_POLICY, *CHOSEN_BY)}
    return kept | ({WAIT_POLICY: "active"} if policy == "active" else {})


def measure_apart(policy: str, count: int) -> Cell:
    """The latency profile beside ``count`` busy processes, as a tree.

    Raises:
        BenchmarkError: the process failed.
    """
    command = [sys.executable, __file__, "--one", "--policies", policy]
    with busy_processes(count):
        done = subprocess.run(
            command, env=environment(policy, os.environ), stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode:
        line = f"The process of {policy} beside {count} others ended with {done.returncode}."
        raise BenchmarkError(line, key=policy, got=done.returncode)
    return {"policy": policy, "busy": count, **json.loads(done.stdout)}


def measure_here(policy: str) -> None:
    """Print the embedded pair's profile as JSON, in a process that has not imported torch yet."""
    if policy == "passive":
        share_cores()
    quiet_libraries()
    from dataclasses import asdict

    from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
    from ecdiff_core.models.memory import keep_freed_memory
    from ecdiff_tune.evaluation import latency
    from ecdiff_tune.evaluation.link import Link

    keep_freed_memory()
    pair = PairSpec("shapes", ModelRef("embedded:shapes/cloud"), ModelRef("embedded:shapes/edge"))
    config = TunedConfig(pair, ECDiffParams.cloud_only(50), Sampling(guidance_scale=3.0))
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    print(json.dumps(asdict(latency.measure(pipe, Link()))))


def table(cells: Sequence[Cell], call: str) -> list[str]:
    """A markdown table of a call's medians and quartiles in milliseconds, a row a way to wait."""
    counts = list(dict.fromkeys(one["busy"] for one in cells))
    names = ["idle" if count == 0 else f"beside {count}" for count in counts]
    lines = [f"| {call.replace('_', ' ')}, ms | {' | '.join(names)} |", "|" + "---|" * (len(counts) + 1)]
    for policy in dict.fromkeys(one["policy"] for one in cells):
        timings = [one[call] for one in cells if one["policy"] == policy]
        shown = [
            " … ".join(f"{1e3 * one[name]:.1f}" for name in ("low", "median", "high")) for one in timings
        ]
        lines.append(f"| {policy} | {' | '.join(shown)} |")
    return lines


def bench(args: argparse.Namespace) -> None:
    if args.one:
        return measure_here(args.policies[0])
    cells: list[Cell] = []
    for policy in args.policies:
        for count in args.busy:
            cells.append(measure_apart(policy, count))
            if args.json is not None:
                write_text(args.json, json.dumps(cells, indent=2) + "\n")
    print(
        f"{os.cpu_count()} CPUs, {cells[-1]['conditions']['threads']} threads; quartile … median … quartile"
    )
    for call in ("cloud_call", "edge_call"):
        print("\n" + "\n".join(table(cells, call)))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
