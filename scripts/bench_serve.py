"""Images a second of `ecdiff serve` under several clients, beside what the model's calls alone allow.

    python scripts/bench_serve.py --json outputs/serve.json
    python scripts/bench_serve.py --clients 1 4 --seconds 10
    python scripts/bench_serve.py --clients --memory 2000

The server is a process of its own, with the embedded pair unless --config names another one. Each client
asks for handoffs (the cloud's part of an image) one after the other. The bound is what model calls at the
best of a few batch sizes would allow if nothing else took time. --memory N lets 16 clients ask for N handoffs
of few cloud calls, and tells the server's resident memory on the way (Linux). Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.threads import share_cores

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

MEMORY_CLIENTS, MEMORY_CALLS = 16, 2
READINGS = 20
"""Of the resident memory, evenly spread over the requests."""


class BenchError(ECDiffError):
    """The server did not start, or lost a request."""


@dataclass(frozen=True)
class Load:
    """What clients saw; ``failed`` holds the status of each answer that was none, or the error's name."""

    clients: int
    seconds: float
    taken: tuple[float, ...]
    failed: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Images a second, from the first request to the last answer."""
        return len(self.taken) / self.seconds

    def percentile(self, cut: int) -> float:
        """Of the seconds of an answer; not a number where there was none."""
        if len(self.taken) < 2:
            return self.taken[0] if self.taken else float("nan")
        return statistics.quantiles(self.taken, n=100, method="inclusive")[cut - 1]


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="shapes", metavar="YAML", help="tuned config (default shapes)")
    add("--device", metavar="DEVICE", help="cpu, cuda, … (default: the accelerator if there is one)")
    add("--clients", type=int, nargs="*", default=(1, 4, 16, 64), metavar="N", help="default 1 4 16 64")
    add("--seconds", type=float, default=30, help="of each number of clients (default 30)")
    add("--batch-size", type=int, default=16, metavar="N", help="of the server (default 16)")
    add("--memory", type=int, default=0, metavar="N", help="requests over which memory is read (default 0)")
    add("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    return parser.parse_args(arguments)


def call_seconds(pipe: ECDiffPipeline, most: int) -> dict[int, float]:
    """Seconds a sample of the cloud's model by batch size (powers of two to ``most``), the best of three."""
    import torch

    from ecdiff_core.models.devices import synchronize
    from ecdiff_core.sampling.batching import take_prompts

    begun = pipe.prepare(["a small red ring"], generator=torch.Generator().manual_seed(0))
    found = {}
    for size in [2**power for power in range(most.bit_length())]:
        denoise = pipe.bind_cloud(take_prompts(begun.conditioning, [0] * size))
        latents = begun.start.latents.repeat(size, *[1] * (begun.start.latents.ndim - 1))
        timestep = begun.start.scheduler.timesteps[0]
        taken = []
        with torch.no_grad():
            for _ in range(4):
                synchronize(pipe.device)
                began = time.perf_counter()
                denoise(latents, timestep)
                synchronize(pipe.device)
                taken.append(time.perf_counter() - began)
        found[size] = min(taken[1:]) / size
    return found


@contextmanager
def server_process(
    config: str,
    device: str | None,
    options: Sequence[str] = (),
    host: str = "127.0.0.1",
    within: Callable[[list[str]], list[str]] = list,
) -> Iterator[tuple[str, int]]:
    """Host and port of ``ecdiff serve``, and its process id.

    Args:
        options: more of its options.
        within: makes of its command line the one that is run.

    Raises:
        BenchError: it did not start.
    """
    command = [sys.executable, "-m", "ecdiff_core", "serve", "--config", config, "--port", "0"]
    command += ["--host", host, *options, *(() if device is None else ("--device", device))]
    process = subprocess.Popen(within(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            errors = (process.communicate()[1] or "no word").strip().splitlines()
            why = f"ecdiff serve ended with status {process.returncode}: {errors[-1]}"
            raise BenchError(why, key="serve", got=process.returncode)
        yield line.split("http://")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.communicate(timeout=60)


def ask_for_handoffs(address: str, clients: int, may_go_on: Callable[[], bool]) -> Load:
    """Clients that each ask again and again, as long as ``may_go_on`` says so."""
    taken: list[float] = []
    failed: list[str] = []

    def client(number: int) -> None:
        connection, seed = HTTPConnection(address, timeout=300), number * 10**6
        while may_go_on():
            seed += 1
            body, began = json.dumps({"prompt": "a small red ring", "seed": seed}), time.perf_counter()
            try:
                connection.request("POST", "/v1/handoff", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, HTTPException) as error:
                failed.append(type(error).__name__)
                connection.close()
                continue
            if answer.status == 200:
                taken.append(time.perf_counter() - began)
            else:
                failed.append(str(answer.status))
        connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(clients, time.perf_counter() - began, tuple(taken), tuple(failed))


def for_seconds(address: str, clients: int, seconds: float) -> Load:
    """What that many clients saw."""
    end = time.perf_counter() + seconds
    return ask_for_handoffs(address, clients, lambda: time.perf_counter() < end)


def over_requests(address: str, pid: int, count: int) -> tuple[Load, dict[int, int]]:
    """What clients saw of that many requests, and the server's resident bytes by requests begun."""
    lock, begun = threading.Lock(), 0
    resident: dict[int, int] = {}

    def may_go_on() -> bool:
        nonlocal begun
        with lock:
            if begun % max(1, count // READINGS) == 0 or begun == count:
                resident.setdefault(begun, resident_bytes(pid))
            if begun >= count:
                return False
            begun += 1
            return True

    return ask_for_handoffs(address, MEMORY_CLIENTS, may_go_on), resident


def resident_bytes(pid: int) -> int:
    """Of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def few_calls(config: str, folder: Path) -> str:
    """The config with a cloud's part of few calls, as a file."""
    from ecdiff_core.config import TunedConfig
    from ecdiff_core.sampling.params import ECDiffParams

    path = folder / "few.yaml"
    params = ECDiffParams(p=MEMORY_CALLS, k=0, alpha=1.0, s=MEMORY_CALLS)
    replace(TunedConfig.load(config), params=params, score={}).save(path)
    return str(path)


def bench_rates(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return what each number of clients saw."""
    import torch

    from ecdiff_core.models.memory import keep_freed_memory
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.handoff_form import HandoffForm

    pipe = ECDiffPipeline.from_config(args.config, device=args.device, side="cloud")
    if pipe.device.type == "cpu":
        keep_freed_memory()
    calls, samples = HandoffForm(pipe).plan.cloud_calls, call_seconds(pipe, args.batch_size)
    bound, device, threads = 1 / (calls * min(samples.values())), str(pipe.device), torch.get_num_threads()
    del pipe
    print(f"{calls} cloud calls an image; bound {bound:.2f} images/s; {device}, {threads} threads")
    print("clients  images/s  of the bound   p50 s   p95 s   p99 s  failed")
    rows = []
    options = ["--batch-size", str(args.batch_size), "--queue", str(max(64, *args.clients))]
    with server_process(args.config, args.device, options) as (address, _):
        for clients in args.clients:
            found = for_seconds(address, clients, args.seconds)
            cuts = {f"p{cut}_seconds": found.percentile(cut) for cut in (50, 95, 99)}
            times = "".join(f"{seconds:8.2f}" for seconds in cuts.values())
            shown = f"{clients:7d}{found.rate:10.2f}{found.rate / bound:14.2f}{times}{len(found.failed):8d}"
            print(shown, flush=True)
            of_bound = {"images_per_second": found.rate, "of_bound": found.rate / bound}
            rows.append({"images": len(found.taken), **of_bound, **cuts, **_without_taken(found)})
    about = {"device": device, "threads": threads, "calls": calls, "bound": bound}
    return {**about, "seconds_per_sample": samples, "rows": rows}


def bench_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the server's memory over many requests."""
    with TemporaryDirectory() as folder:
        config = few_calls(args.config, Path(folder))
        options = ["--batch-size", str(args.batch_size)]
        with server_process(config, args.device, options) as (address, pid):
            found, resident = over_requests(address, pid, args.memory)
    print(f"\n{len(found.taken)} requests of {MEMORY_CALLS} cloud calls, {len(found.failed)} failed")
    print("requests  resident MiB")
    for begun, size in resident.items():
        print(f"{begun:8d}{size / 2**20:14.1f}")
    sizes = list(resident.values())
    grown = (sizes[-1] - sizes[len(sizes) // 10]) / 2**20
    print(f"{grown:+.1f} MiB from the first tenth of the requests to the last")
    return {"images": len(found.taken), "resident_bytes": resident, **_without_taken(found)}


def _without_taken(found: Load) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if name != "taken"}


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    measured: dict[str, Any] = {"config": args.config, "load_average": os.getloadavg()}
    failed = False
    for name, wanted, measure in (
        ("rates", args.clients, bench_rates),
        ("memory", args.memory, bench_memory),
    ):
        if not wanted:
            continue
        measured[name] = found = measure(args)
        failed |= any(part["failed"] for part in found.get("rows", [found]))
        if args.json is not None:  # at once: the next part may be stopped
            write_text(args.json, json.dumps(measured, indent=2) + "\n")
    if failed:
        line = "The server lost requests; their statuses are in the column failed and in --json."
        raise BenchError(line, key="failed", got=failed)


def main(arguments: Sequence[str] | None = None) -> int:
    share_cores()
    args = parse_args(arguments)
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
