"""How right the time left is that `tune` prints: what it said against what then came.

    python scripts/bench_time_left.py [--stop 0.4] [KEY=VALUE …]

Runs `tune` on the embedded pair with few prompts, once undisturbed and once stopped after that share of its
work and gone on with. KEY=VALUE are settings of `tune`. Each row is one time that a run said how long it
still takes: after which share of its work, the seconds that it said and those that it took, and the same in
work, which is calls and decodes priced by the latency profile, so that a machine that is busy elsewhere
changes nothing. Ends with the greatest error after the first tenth.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ecdiff_core.io.console import quiet_libraries

SETTINGS = ("pair=shapes", "device=cpu", "calibration.num_prompts=20", "heldout.num_prompts=10")


@dataclass(frozen=True)
class Moment:
    """When a run said how long it still takes.

    Args:
        at, left: seconds since the clock began, and those that it said.
        done, planned: work since the run began, and the work that it thought was left.
    """

    at: float
    left: float
    done: float
    planned: float


def run(arguments: list[str], stop: float = float("inf")) -> tuple[list[Moment], Moment]:
    """Run `tune`: what it said on the way, and how it ended.

    Args:
        stop: the work after which it is stopped.
    """
    from ecdiff_tune.__main__ import main
    from ecdiff_tune.study.time_left import TimeLeft

    moments: list[Moment] = []
    clocks: set[TimeLeft] = set()
    asked = TimeLeft.seconds

    def seconds(clock: TimeLeft) -> float | None:
        left, (done, planned) = asked(clock), clock.work()
        clocks.add(clock)
        if left is not None:
            moments.append(Moment(time.monotonic(), left, done, planned))
        if done > stop:
            raise KeyboardInterrupt
        return left

    with mock.patch.object(TimeLeft, "seconds", seconds):
        status = main(["tune", *arguments])
    if status not in (0, 130):
        raise SystemExit(status)
    return moments, Moment(time.monotonic(), 0.0, max(one.work()[0] for one in clocks), 0.0)


def rows(name: str, moments: list[Moment], end: Moment) -> list[tuple[str, float, float, float]]:
    """Of a run: its name, share of work done, and how many times too much time and work it said."""
    return [
        (name, one.done / end.done, one.left / (end.at - one.at), one.planned / (end.done - one.done))
        for one in moments
        if one.done < end.done and one.at < end.at
    ]


def main() -> int:
    """Print the rows, and the greatest error after a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stop", type=float, default=0.4, help="share after which a run is stopped")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_intermixed_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("whole", "stopped")]
        whole, stopped = ([*SETTINGS, *given.settings, f"output_dir={one}"] for one in outputs)
        moments, end = run(whole)
        for path in outputs[0].glob("*/*/latency.json"):
            target = outputs[1] / path.relative_to(outputs[0])
            target.parent.mkdir(parents=True)
            shutil.copy(path, target)
        run(stopped, given.stop * end.done)
        found = rows("undisturbed", moments, end) + rows("gone on with", *run(stopped))
    print("| run | done | seconds said / taken | work planned / done |\n|---|---|---|---|")
    for name, share, clock, work in found:
        print(f"| {name} | {share:.0%} | {clock:.2f} | {work:.2f} |")
    for name, place in (("seconds", 2), ("work", 3)):
        late = [one for one in found if 0.1 <= one[1] <= 0.9]
        worst = max(late, key=lambda one: abs(one[place] - 1))
        print(f"{name}: at most {abs(worst[place] - 1):.0%} off between a tenth and nine tenths ({worst[0]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
