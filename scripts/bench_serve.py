"""Images a second of `ecdiff serve` under several clients, beside what the model's calls alone allow.

    python scripts/bench_serve.py --json outputs/serve.json
    python scripts/bench_serve.py --clients 1 4 --seconds 10

Server and clients are threads of this process, with the embedded pair unless --config names another one. Each
client asks for handoffs (the cloud's part of an image) one after the other. The bound is what model calls at
the best of a few batch sizes would allow if nothing else took time. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.files import write_text
from ecdiff_core.io.threads import share_cores

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline

BATCHES = (1, 2, 4, 8, 16)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="shapes", metavar="YAML", help="tuned config (default shapes)")
    add("--clients", type=int, nargs="+", default=(1, 4, 16, 64), metavar="N", help="default 1 4 16 64")
    add("--seconds", type=float, default=30, help="of each number of clients (default 30)")
    add("--batch-size", type=int, default=16, metavar="N", help="of the server (default 16)")
    add("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    return parser.parse_args(arguments)


def call_seconds(pipe: ECDiffPipeline) -> dict[int, float]:
    """Seconds a sample of the cloud's model by batch size, the best of three."""
    import torch

    from ecdiff_core.sampling.batching import take_prompts

    begun = pipe.prepare(["a small red ring"], generator=torch.Generator().manual_seed(0))
    found = {}
    for size in BATCHES:
        denoise = pipe.bind_cloud(take_prompts(begun.conditioning, [0] * size))
        latents, timestep = begun.start.latents.repeat(size, 1, 1, 1), begun.start.scheduler.timesteps[0]
        with torch.no_grad():
            denoise(latents, timestep)
            taken = []
            for _ in range(3):
                began = time.perf_counter()
                denoise(latents, timestep)
                taken.append(time.perf_counter() - began)
        found[size] = min(taken) / size
    return found


def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """What that many clients saw."""
    import httpx2

    taken: list[float] = []
    failed: list[str] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        with httpx2.Client(base_url=url, timeout=300) as http:
            seed = number * 10**6
            while (began := time.perf_counter()) < end:
                seed += 1
                answer = http.post("/v1/handoff", json={"prompt": "a small red ring", "seed": seed})
                if answer.status_code == 200:
                    taken.append(time.perf_counter() - began)
                else:
                    failed.append(str(answer.status_code))

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began
    cuts = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken * 99
    return {
        "clients": clients,
        "images": len(taken),
        "failed": failed,
        "images_per_second": len(taken) / whole,
        **{f"p{cut}_seconds": cuts[cut - 1] for cut in (50, 95, 99)},
    }


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    import torch

    from ecdiff_core.models.memory import keep_freed_memory
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.handoff import HandoffForm
    from ecdiff_core.serving.limits import Limits
    from ecdiff_core.serving.server import Listen, make_server

    pipe = ECDiffPipeline.from_config(args.config, side="cloud")
    if pipe.device.type == "cpu":
        keep_freed_memory()
    calls = HandoffForm(pipe).plan.cloud_calls
    samples = call_seconds(pipe)
    bound = 1 / (calls * min(samples.values()))
    urls: queue.Queue[str] = queue.Queue()
    limits = Limits(batch_size=args.batch_size, queue=max(64, *args.clients))
    server = make_server(pipe, Listen(port=0), limits, urls.put)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = urls.get()
    rows = [load(url, clients, args.seconds) for clients in args.clients]
    server.should_exit = True
    thread.join()
    print(f"{calls} cloud calls an image; bound {bound:.2f} images/s; {torch.get_num_threads()} threads")
    print("clients  images/s  of the bound   p50 s   p95 s   p99 s  failed")
    for row in rows:
        rate = row["images_per_second"]
        times = "".join(f"{row[f'p{cut}_seconds']:8.2f}" for cut in (50, 95, 99))
        print(f"{row['clients']:7d}{rate:10.2f}{rate / bound:14.2f}{times}{len(row['failed']):8d}")
    if args.json is not None:
        about = {"load_average": os.getloadavg(), "threads": torch.get_num_threads(), "config": args.config}
        found = {**about, "calls": calls, "seconds_per_sample": samples, "bound": bound, "rows": rows}
        write_text(args.json, json.dumps(found, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    share_cores()
    args = parse_args(arguments)
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
