"""How many cores this process may use, and how its threads wait: decided before torch is imported.

OpenMP's threads spin while they wait. Beside other processes they spin on cores that the others need, and
a model call may take fifty times as long. Threads that sleep take time to wake: on an idle machine it costs
up to half of the embedded pair's short calls (``scripts/bench_busy.py``), and ``active`` is faster.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

WAIT_POLICY = "OMP_WAIT_POLICY"
THREADS = "OMP_NUM_THREADS"
CHOSEN_BY = (THREADS, "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
"""Variables by which a user says how many threads there are."""
_SYSTEM = Path("/")


def share_cores(environment: MutableMapping[str, str] = os.environ, system: Path = _SYSTEM) -> None:
    """Let threads sleep while they wait, and start no more of them than the cgroup's quota has CPUs for.

    What the user set stays. Affinity needs nothing here: torch counts the cores that it may run on. Once
    torch is imported its threads are settled, and nothing is changed.

    Args:
        environment: that torch will read.
        system: the root of ``/proc`` and ``/sys``.
    """
    if "torch" in sys.modules and environment is os.environ:
        return
    environment.setdefault(WAIT_POLICY, "passive")
    quota = cpu_quota(system)
    if quota is None or any(environment.get(name) for name in CHOSEN_BY):
        return
    threads = max(
        1, math.floor(quota)
    )  # a thread more than the quota would be throttled, and all wait for it
    if threads < usable_cores(system):
        environment[THREADS] = str(threads)


def wait_policy() -> str:
    """``passive``, ``active``, or ``default`` where nobody has chosen."""
    return os.environ.get(WAIT_POLICY, "").lower() or "default"


def usable_cores(system: Path = _SYSTEM) -> int:
    """The physical cores that this process may run on, by its affinity; at least 1."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = system / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        cores.add(_text(topology) or str(cpu))
    return max(1, len(cores))


def cpu_quota(system: Path = _SYSTEM) -> float | None:
    """CPUs that the cgroups of this process allow it, the least of all levels; None without a limit.

    Version 2 says it in ``cpu.max``, version 1 in ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``. In a
    container the path in ``/proc/self/cgroup`` may be the host's, so that only its root is there.
    """
    limits = [
        limit
        for folder, top in _cgroups(system)
        for level in (folder, *folder.parents)
        if level.is_relative_to(top)
        for limit in [_quota_in(level)]
        if limit is not None
    ]
    return min(limits, default=None)


def _cgroups(system: Path) -> Iterator[tuple[Path, Path]]:
    """The folder of each cgroup that may limit CPUs, and the mount that it lies in."""
    mounts = system / "sys/fs/cgroup"
    for line in _text(system / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            yield mounts / path.lstrip("/"), mounts
        elif "cpu" in controllers.split(","):
            for name in {controllers, "cpu"}:
                yield mounts / name / path.lstrip("/"), mounts / name


def _quota_in(folder: Path) -> float | None:
    """Of one level, either version's; -1 and ``max`` are no limit."""
    found = _text(folder / "cpu.max").split() or [
        _text(folder / "cpu.cfs_quota_us"),
        _text(folder / "cpu.cfs_period_us"),
    ]
    try:
        quota, period = map(int, found)
    except ValueError:  # "max", or a file is missing
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    """Of a file of the system, empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
