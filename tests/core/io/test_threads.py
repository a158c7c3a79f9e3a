"""Cores and waiting threads, on made-up systems and in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecdiff_core.io.threads import cpu_quota, share_cores, usable_cores

PASSIVE = {"OMP_WAIT_POLICY": "passive"}


def system(folder: Path, cgroup: str, **files: str) -> Path:
    """A root with ``/proc/self/cgroup`` and files below ``/sys/fs/cgroup``; ``__`` is a slash."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name.replace("__", "/").replace("_and_", ",")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


V1 = {"cpu__cpu.cfs_quota_us": "150000\n", "cpu__cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        pytest.param("0::/\n", {"cpu.max": "400000 100000\n"}, 4.0, id="2"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="2, no limit"),
        pytest.param("0::/\n", {}, None, id="2, the root has no file"),
        pytest.param(
            "0::/a/b\n",
            {"a__cpu.max": "250000 100000\n", "a__b__cpu.max": "max 100000\n"},
            2.5,
            id="2, the level above",
        ),
        pytest.param("1:cpu:/\n0::/\n", V1, 1.5, id="1"),
        pytest.param("1:cpu:/\n", {**V1, "cpu__cpu.cfs_quota_us": "-1\n"}, None, id="1, no limit"),
        pytest.param("1:cpu:/docker/0123\n", V1, 1.5, id="1, the host's path"),
        pytest.param(
            "3:cpu,cpuacct:/job\n2:cpuset:/\n",
            {
                "cpu,cpuacct__job__cpu.cfs_quota_us": "50000",
                "cpu,cpuacct__job__cpu.cfs_period_us": "100000",
                "cpu,cpuacct__cpu.cfs_quota_us": "-1",
                "cpu,cpuacct__cpu.cfs_period_us": "100000",
            },
            0.5,
            id="1, with cpuacct",
        ),
        pytest.param("2:cpuset:/\nnonsense\n", V1, None, id="not of the CPU"),
    ],
)
def test_the_quota_of_the_cgroup(
    tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(system(tmp_path, cgroup, **files)) == quota


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "limit", "given", "threads"),
    [
        pytest.param(64, "400000 100000", {}, "4", id="a quota of 4 on a host of 64"),
        pytest.param(64, "150000 100000", {}, "1", id="one and a half"),
        pytest.param(64, "50000 100000", {}, "1", id="half a CPU"),
        pytest.param(2, "400000 100000", {}, None, id="affinity is narrower"),
        pytest.param(64, "max 100000", {}, None, id="no quota"),
        pytest.param(64, "400000 100000", {"OMP_NUM_THREADS": "9"}, "9", id="the user's"),
        pytest.param(64, "400000 100000", {"MKL_NUM_THREADS": "9"}, None, id="the user's, of MKL"),
    ],
)
def test_threads_follow_the_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: int,
    limit: str,
    given: dict[str, str],
    threads: str | None,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    environment = dict(given)
    share_cores(environment, system(tmp_path, "0::/", **{"cpu.max": limit}))
    assert environment == {**given, **PASSIVE, **({"OMP_NUM_THREADS": threads} if threads else {})}


def test_hyperthreads_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 8, 9}, raising=False)
    for cpu in (0, 1, 8, 9):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{cpu % 8},{cpu % 8 + 8}\n")
    assert usable_cores(tmp_path) == 2


def test_the_users_policy_stays(tmp_path: Path) -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    share_cores(environment, tmp_path)
    assert environment == {"OMP_WAIT_POLICY": "active"}


SCRIPT = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
from {package}.__main__ import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("ecdiff_core", ["generate", "--config", "x.yaml", "--prompt", "a"]),
        ("ecdiff_tune", ["reference", "device=cpu"]),
    ],
)
@pytest.mark.parametrize(("given", "policy"), [(None, "passive"), ("active", "active")])
def test_command_lines_set_it_before_torch_is_imported(
    tmp_path: Path, package: str, arguments: list[str], given: str | None, policy: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    if package == "ecdiff_tune":
        arguments = [*arguments, f"output_dir={tmp_path}"]
    script = SCRIPT.format(package=package, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == f"{policy}\n", done.stderr


def test_what_torch_has_read_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert "torch" in sys.modules
    share_cores()
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("given", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_make_sets_it_for_its_targets(given: dict[str, str], policy: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    ask = ["make", "-s", "--eval", "ask: ; @echo $$OMP_WAIT_POLICY", "ask"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ask, cwd=root, capture_output=True, text=True, check=True, env={**environment, **given}
    )
    assert done.stdout == f"{policy}\n"
