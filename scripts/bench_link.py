"""Cloud and edge as two processes over a slow link: the images of one process, in the forecast's seconds?

    python scripts/bench_link.py --json outputs/link.json
    python scripts/bench_link.py --mbps 100 --round-trip 0.005 --repeats 20
    python scripts/bench_link.py --namespaces       # as root, on Linux, with iproute2

The server is a process of its own, behind a proxy that has the link's rate and delay (scripts/shaped_link.py)
or in a network namespace of its own, behind a veth pair that tc shapes. As computed, images must equal those
of one process bit for bit. As float16, which the latency profile reckons with, seconds are held against its
forecast, of calls timed here before and after. One-way is the config's own plan; the interleaved one asks the
cloud in turns with the edge.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from bench_serve import server_process
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import quiet_libraries, run_command
from ecdiff_core.io.threads import share_cores
from ecdiff_core.serving.token_file import find_token
from shaped_link import Shape, ShapedLink
from two_namespaces import CLOUD_ADDRESS, two_namespaces

if TYPE_CHECKING:
    from ecdiff_core.config import TunedConfig
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.client import RemoteCloud
    from ecdiff_core.tuned_pair import Prepared
    from ecdiff_tune.evaluation.latency import LatencyProfile

PROMPT = "a large red square left of a small blue star"
CLOUD_STEPS, EDGE_STEPS = (0, 1, 14, 27, 40), (3, 6, 9, 12, 20, 24, 30, 34, 44, 48, 49)
"""Of the interleaved plan, at 50 steps."""


class LinkError(ECDiffError):
    """An image differs from that of one process."""


@dataclass(frozen=True)
class Parts:
    """Seconds of an image, the median of several; ``server`` and ``link`` are what the edge waits for."""

    total: float
    server: float
    link: float
    edge: float
    decode: float


class TimedCloud:
    """A server's part of an image, and how long the edge waited for it (``ecdiff_core.pipeline.Cloud``)."""

    def __init__(self, cloud: RemoteCloud) -> None:
        self.cloud, self.waited = cloud, 0.0

    def begin(self, *given: Any) -> Prepared:
        began = time.perf_counter()
        begun = self.cloud.begin(*given)
        self.waited += time.perf_counter() - began
        ask = begun.cloud
        if ask is None:
            return begun

        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return ask(*given)
            finally:
                self.waited += time.perf_counter() - began

        return replace(begun, cloud=timed)


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="shapes", metavar="YAML", help="tuned config of 50 steps (default shapes)")
    add("--mbps", type=float, default=18.88, help="of the link (default 18.88, the paper's)")
    add("--round-trip", type=float, default=0.02, metavar="SECONDS", help="of the link (default 0.02)")
    add("--repeats", type=int, default=9, metavar="N", help="images of each plan (default 9)")
    add("--namespaces", action="store_true", help="network namespaces in place of a proxy")
    add("--device", default="cpu", help="of both machines (default cpu)")
    add("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    return parser.parse_args(arguments)


@contextmanager
def server_over(shape: Shape, config: str, args: argparse.Namespace) -> Iterator[tuple[str, Shape]]:
    """The URL of a server over a link, and what that link is; the calling thread is on the edge's side."""
    if not args.namespaces:
        with (
            server_process(config, args.device) as (address, _),
            ShapedLink(f"http://{address}", shape) as link,
        ):
            yield link.url, shape
        return
    os.environ.setdefault("ECDIFF_TOKEN", "a-token-of-the-benchmark")
    with (
        two_namespaces(shape) as spaces,
        server_process(config, args.device, within=spaces.within, host=CLOUD_ADDRESS) as (address, _),
        spaces.entered(spaces.edge),
    ):
        yield f"http://{address}", spaces.shape


def server_seconds(url: str) -> float:
    """Seconds of all jobs so far, by the server's own count."""
    token = find_token(None)
    asked = Request(f"{url}/metrics", headers={} if token is None else {"Authorization": f"Bearer {token}"})
    with urlopen(asked, timeout=60) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r"ecdiff_job_seconds_sum\{.*?\} (\S+)", text)))


def one(pipe: ECDiffPipeline, seed: int) -> Any:
    import torch

    return pipe(PROMPT, generator=torch.Generator().manual_seed(seed))


def measure_parts(pipe: ECDiffPipeline, cloud: TimedCloud, repeats: int) -> Parts:
    """Of that many images, after one that is not counted."""
    found = []
    for seed in range(repeats + 1):
        cloud.waited, before = 0.0, server_seconds(cloud.cloud.url)
        began = time.perf_counter()
        output = one(pipe, seed)
        total = time.perf_counter() - began
        server, decode = server_seconds(cloud.cloud.url) - before, output.seconds.decode
        found.append(Parts(total, server, cloud.waited - server, total - cloud.waited - decode, decode))
    return Parts(*(median(getattr(part, name) for part in found[1:]) for name in Parts.__dataclass_fields__))


def mean_profile(first: LatencyProfile, second: LatencyProfile) -> LatencyProfile:
    """Of one taken before and one taken after: a machine's speed changes."""

    def between(name: str) -> Any:
        timings = getattr(first, name), getattr(second, name)
        return replace(timings[0], median=(timings[0].median + timings[1].median) / 2)

    return replace(first, **{name: between(name) for name in ("cloud_call", "edge_call", "encode", "decode")})


def bench_plan(name: str, config: TunedConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Print and return what one plan took.

    Raises:
        LinkError: an image differs.
    """
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.client import RemoteCloud
    from ecdiff_tune.evaluation.latency import measure
    from ecdiff_tune.evaluation.link import Link

    whole = ECDiffPipeline.from_config(config, device=args.device)
    plan, asked = whole.plan(), Shape(args.mbps, args.round_trip)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ecdiff.yaml"
        config.save(path)
        with server_over(asked, str(path), args) as (url, shape):
            exact = RemoteCloud(url, find_token(None))
            edge = ECDiffPipeline.from_config(config, device=args.device, cloud=exact)
            if one(edge, 0).images[0].tobytes() != one(whole, 0).images[0].tobytes():
                raise LinkError(f"The {name} image over the link differs from one process's.", key=name)
            cloud = TimedCloud(RemoteCloud(url, find_token(None), packet="float16"))
            edge.cloud = cloud
            before = measure(whole, Link())
            parts = measure_parts(edge, cloud, args.repeats)
            profile = mean_profile(before, measure(whole, Link()))
            trip, rate = exact.measure(5, 2**18)
    link = Link(shape.mbps, shape.round_trip_seconds)
    forecast = profile.over(link).seconds(plan)
    off = parts.total / forecast - 1
    transfer = profile.over(link).transfer(plan)
    print(
        f"{name}: {plan}; bit for bit the same; {parts.total:.3f} s, forecast {forecast:.3f} s ({off:+.1%})\n"
        f"  server {parts.server:.3f}, link {parts.link:.3f} (forecast {transfer:.3f}), "
        f"edge {parts.edge:.3f}, decoder {parts.decode:.3f}",
        flush=True,
    )
    measured = {"mbps": rate.median, "round_trip_seconds": trip.median}
    about = {"plan": plan.schedule, "link": asdict(link), "link_measured": measured, "forecast": forecast}
    return {**about, **asdict(parts), "off": off, "link_forecast": transfer, "profile": asdict(profile)}


def bench(args: argparse.Namespace) -> None:
    quiet_libraries()
    from ecdiff_core.config import TunedConfig
    from ecdiff_core.sampling.params import ECDiffParams

    config = replace(TunedConfig.load(args.config), score=None, provenance=None)
    interleaved = ECDiffParams.interleaved(CLOUD_STEPS, EDGE_STEPS, alpha=0.1, residual=1.0)
    rows = {
        "one-way": bench_plan("one-way", config, args),
        "interleaved": bench_plan("interleaved", replace(config, params=interleaved), args),
    }
    if args.json is not None:
        write_text(args.json, json.dumps({"config": args.config, "rows": rows}, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    share_cores()
    args = parse_args(arguments)
    return run_command(lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
