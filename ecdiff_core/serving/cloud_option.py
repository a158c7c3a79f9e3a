"""What ``--cloud`` adds to ``ecdiff generate``: a server that does the cloud's part.

Torch and the extra's packages are imported when a command runs.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from ecdiff_core.errors import CloudUnavailableError, ECDiffError, ParamsError
from ecdiff_core.io.text import visible
from ecdiff_core.serving.commands import add_cacert, add_token, with_extra
from ecdiff_core.serving.token_file import find_token

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline
    from ecdiff_core.serving.client import RemoteCloud

FALLBACKS = ("none", "edge")
PACKETS = ("computed", "float16", "int8")
"""``packet.Encoding``, which cannot be had without torch."""


def add_cloud(add: Any) -> None:
    """What ``generate`` has for another machine."""
    add(
        "--cloud",
        metavar="URL",
        help="of ecdiff serve: only the edge's model and the decoder are loaded here",
    )
    add_token(add)
    add_cacert(add)
    add(
        "--packet",
        choices=PACKETS,
        default="computed",
        help="how numbers travel: as computed (default), or smaller",
    )
    add(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="of an image: the best config of the YAML's front that keeps it is taken; the server refuses a "
        "cloud's part that takes longer",
    )
    add(
        "--fallback",
        choices=FALLBACKS,
        default="none",
        help="what does the steps where the cloud cannot be had: nothing (default), or the edge's model",
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse what can be seen without torch to be wrong.

    Raises:
        ParamsError: an option is out of range, or goes with ``--cloud``.
    """
    if args.cloud is None:
        for name in ("token_file", "cacert", "deadline"):
            if getattr(args, name) is not None:
                line = f"--{name.replace('_', '-')} goes with --cloud URL."
                raise ParamsError(line, key=f"--{name.replace('_', '-')}", got=str(getattr(args, name)))
        return
    with with_extra():
        from ecdiff_core.serving.transport import check_url
    check_url(args.cloud)
    if args.deadline is not None and not 0 < args.deadline < math.inf:
        raise ParamsError(key="--deadline", got=args.deadline, expected="> 0 seconds, and finite")
    find_token(args.token_file)


def remote_cloud(args: argparse.Namespace) -> RemoteCloud | None:
    """The server that ``generate`` is to ask; None without ``--cloud``."""
    if args.cloud is None:
        return None
    from ecdiff_core.serving.client import RemoteCloud

    return RemoteCloud(
        args.cloud,
        find_token(args.token_file),
        packet=args.packet,
        deadline_seconds=args.deadline,
        verify=args.cacert or True,
    )


def check_cloud(cloud: RemoteCloud | None, args: argparse.Namespace) -> CloudUnavailableError | None:
    """See that the server answers and takes the token, before anything is loaded for it.

    Returns:
        why it cannot be had, where ``--fallback edge`` goes on without it.

    Raises:
        CloudError, CloudUnavailableError: it refuses, or cannot be had.
    """
    if cloud is None:
        return None
    try:
        cloud.config()
    except CloudUnavailableError as error:
        if args.fallback != "edge":
            raise
        return error
    return None


def within_deadline(pipe: ECDiffPipeline, args: argparse.Namespace) -> ECDiffPipeline:
    """The pipeline with the config of its front that ``--deadline`` allows.

    Without a front, and for baselines, it stays as it is: the deadline is the cloud's alone.
    """
    if args.deadline is None or pipe.cloud is None or pipe.config.front is None or args.mode != "ecdiff":
        return pipe
    try:
        pipe = pipe.within(args.deadline)
    except CloudUnavailableError as error:
        if args.fallback != "edge":
            raise
        fall_back(pipe, error)
        return pipe
    print(f"note: {pipe.choice}", file=sys.stderr)
    return pipe


def fall_back(pipe: ECDiffPipeline, error: ECDiffError) -> None:
    """Let the edge's model do all steps from now on, with text encoders of its own."""
    from ecdiff_core.models.devices import get_dtype
    from ecdiff_core.models.one_side import load_text_encoders

    why = visible(str(error)).removesuffix(".")
    print(f"note: {why}. The edge's model does all steps.", file=sys.stderr)
    load_text_encoders(pipe.pair, get_dtype(pipe.config.sampling.dtype))
    pipe.cloud = None
