"""``ecdiff serve`` and ``ecdiff link``.

Torch and the extra's packages are imported when a command runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ecdiff_core.errors import ECDiffError, ParamsError
from ecdiff_core.io.console import leave_stdout, quiet_libraries, show_loading
from ecdiff_core.io.text import counted

if TYPE_CHECKING:
    import socket

    from ecdiff_core.config import TunedConfig
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.limits import Limits
    from ecdiff_core.serving.listen import Listen
    from ecdiff_core.serving.server import Server

AUTO = "auto"
LARGEST_BATCH = 64
"""That ``--batch-size auto`` tries."""
_LIMITS = {
    "queue": "requests that wait; more are answered with 429 (default 64)",
    "sessions": "images of plans that go back and forth, at a time; more get 429 (default 64)",
    "prompt_chars": "longest prompt (default 2000 characters)",
    "drain_seconds": "that requests under way have after SIGTERM (default 30)",
}
"""That are options, by their names in ``Limits``."""


class MissingExtraError(ECDiffError):
    """A package of the extra ``serve`` is not installed."""


@contextmanager
def with_extra() -> Iterator[None]:
    """Around imports of the extra's packages.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "httpx2", "prometheus_client", "starlette", "uvicorn"):
            raise
        raise MissingExtraError(
            f'The package {error.name} is missing: install the extra, pip install "ecdiff[serve]".',
            key=error.name,
            expected=["serve"],
        ) from error


def add_serve(commands: Any) -> None:
    """The options of ``serve``."""
    parser = commands.add_parser(
        "serve",
        help="do the cloud's part for other machines",
        description="Load the cloud's model, and do its part of generations for edges that ask over HTTP. "
        "SIGTERM and Ctrl-C end it when what is under way is done.",
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="YAML",
        help="tuned config, of the edges too: a file, or shapes, which comes with ecdiff",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1); others than this machine's own need a token",
    )
    add("--port", type=int, default=8000, help="default 8000; 0 is any that is free")
    add_token(add)
    add("--ssl-certfile", type=Path, metavar="PEM", help="certificate, for https")
    add("--ssl-keyfile", type=Path, metavar="PEM", help="its key")
    add("--device", default=None, help="cpu, cuda, … (default: the accelerator if there is one)")
    add("--dtype", default=None, help="float32, float16 or bfloat16 (default: the config's)")
    add("--any-weights", action="store_true", help="accept weights that the config was not tuned for")
    add(
        "--batch-size",
        type=_size,
        metavar="N",
        help="samples in one call of the model (default 16), halved where memory runs out; auto tries out "
        "how many are fastest, once for a config file and a device",
    )
    for name, meaning in _LIMITS.items():
        add(f"--{name.replace('_', '-')}", type=int, metavar="N", help=meaning)


def add_link(commands: Any) -> None:
    """The options of ``link``."""
    parser = commands.add_parser(
        "link",
        help="measure the link to a server",
        description="Print round trip and bandwidth to a server of ecdiff serve, each with its quartiles.",
    )
    add = parser.add_argument
    add("url", metavar="URL", help="of the server")
    add_token(add)
    add_cacert(add)
    add("--repeats", type=int, default=10, metavar="N", help="measurements (default 10)")
    add("--size-mib", type=float, default=1.0, metavar="N", help="of a download (default 1, at most 8)")


def add_token(add: Any) -> None:
    add(
        "--token-file", type=Path, metavar="FILE", help="the server's token (default: ECDIFF_TOKEN's, if any)"
    )


def add_cacert(add: Any) -> None:
    add("--cacert", type=Path, metavar="PEM", help="certificate to trust, such as the server's own")


def serve(args: argparse.Namespace) -> None:
    """Run a server until it is told to end."""
    from ecdiff_core.serving.limits import Limits
    from ecdiff_core.serving.listen import Listen, bound
    from ecdiff_core.serving.token_file import find_token

    listen = Listen(args.host, args.port, find_token(args.token_file), args.ssl_certfile, args.ssl_keyfile)
    asked = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    if args.batch_size not in (None, AUTO):
        asked["batch_size"] = args.batch_size
    limits = Limits(**asked)
    with bound(listen) as sockets:
        server = _serve(args, listen, limits, sockets)
    done = "what was under way is done"
    if server.dropped:
        left = counted(server.dropped, "request")
        done = f"{left} not done within {limits.drain_seconds} s, told to ask another server"
    print("stopped" if server.force_exit else f"stopped; {done}", file=sys.stderr)


def _serve(args: argparse.Namespace, listen: Listen, limits: Limits, sockets: list[socket.socket]) -> Server:
    """What takes seconds: imports, models, and serving itself; the server when it has ended."""
    quiet_libraries()
    with with_extra():
        from ecdiff_core.serving.server import make_server
    from ecdiff_core.config import TunedConfig
    from ecdiff_core.methods.in_pair import check_one_machine

    config = TunedConfig.load(args.config)
    check_one_machine(config.method)
    pipe = _load(config, args)
    if args.batch_size == AUTO:
        limits = replace(limits, batch_size=_fastest_size(pipe, Path(args.config)))
    whom = "for this machine" if listen.token is None else "for who has the token"

    def log(url: str) -> None:
        try:
            print(f"serving {pipe.pair.spec.name} ({pipe.plan()}) at {url} {whom}", flush=True)
        except OSError as error:  # a full disk: no reason not to serve
            print(f"note: serving at {url}; stdout: {error.strerror}", file=sys.stderr)
            leave_stdout()

    def log_end() -> None:
        with suppress(OSError):
            within = f"within {limits.drain_seconds} s; Ctrl-C again drops it"
            print(f"\nstopping when what is under way is done, {within}", file=sys.stderr, flush=True)

    server = make_server(pipe, listen, limits, log, log_end)
    server.run(sockets)
    return server


def _load(config: TunedConfig, args: argparse.Namespace) -> ECDiffPipeline:
    """The cloud's side."""
    from ecdiff_core.models.memory import keep_freed_memory
    from ecdiff_core.pipeline import ECDiffPipeline

    show_loading(config.pair.name)
    pipe = ECDiffPipeline.from_config(
        config, device=args.device, dtype=args.dtype, check_weights=not args.any_weights, side="cloud"
    )
    for note in pipe.pair.notes:
        print(f"note: {note}", file=sys.stderr)
    if pipe.device.type == "cpu":
        keep_freed_memory()
    return pipe


def _size(text: str) -> int | str:
    """``auto``, or a number."""
    try:
        return AUTO if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or {AUTO}, got {text!r}") from None


def _fastest_size(pipe: ECDiffPipeline, config: Path) -> int:
    """The batch size that is fastest on this device, kept beside the config's file where that can be."""
    from ecdiff_core.batch_size import kept, throughputs
    from ecdiff_core.models.devices import device_name

    def find() -> dict[int, float]:
        return throughputs(pipe, LARGEST_BATCH, Counter())

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with ExitStack() as stack:
        # One that comes with the package is no file here; of others the folder may be for reading alone.
        if not (config.is_file() and os.access(config.parent, os.W_OK)):
            config = Path(stack.enter_context(TemporaryDirectory(prefix="ecdiff-"))) / config.name
        return kept(config.with_suffix(".batch_size.json"), find, log, device_name(pipe.device))


def link(args: argparse.Namespace) -> None:
    """Print what the link is."""
    with with_extra():
        from ecdiff_core.serving.transport import Retry, Transport
    from ecdiff_core.serving.measure_link import measure_link
    from ecdiff_core.serving.token_file import find_token

    if args.repeats < 1:
        raise ParamsError(key="--repeats", got=args.repeats, expected=">= 1")
    if not 0 < args.size_mib <= 8:
        raise ParamsError(key="--size-mib", got=args.size_mib, expected="> 0 and <= 8")
    http = Transport(args.url, find_token(args.token_file), Retry(), args.cacert or True)
    trip, rate = measure_link(http, args.repeats, round(args.size_mib * 2**20))
    http.close()
    print(f"round trip {1000 * trip.median:.2f} ms ({1000 * trip.low:.2f} … {1000 * trip.high:.2f})")
    print(f"bandwidth {rate.median:.2f} Mbps ({rate.low:.2f} … {rate.high:.2f})")
