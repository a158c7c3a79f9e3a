"""The latency profile of two machines: a server's cloud call, this machine's edge call, the link between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving import packet
from ecdiff_core.serving.commands import with_extra
from ecdiff_core.serving.handoff_form import facts_of
from ecdiff_core.serving.seconds import SERVED, timings_of
from ecdiff_core.serving.token_file import find_token
from ecdiff_tune.evaluation import latency
from ecdiff_tune.evaluation.latency import LatencyError, LatencyProfile, Timing
from ecdiff_tune.evaluation.link import Link, MeasuredLink

REPEATS = 10
"""Measurements of the round trip, and of the bandwidth."""
DOWNLOAD_BYTES = 2**20
_AS_HERE = ("cloud", "edge", "size", "dtype")
"""Facts of a server that its seconds depend on; its plan may be any."""


def measure(pipe: ECDiffPipeline, link: Link, *, take_turns: bool = True) -> LatencyProfile:
    """A profile with the server's seconds of ``SERVED``, this machine's of the rest, over the link as it is.

    Args:
        link: its URL is the server's.
        take_turns: as ``latency.measure``.

    Raises:
        CloudError, CloudUnavailableError: the server refuses, or cannot be had.
        LatencyError: it serves another pair, size, dtype or guidance.
    """
    with with_extra():
        from ecdiff_core.serving.client import RemoteCloud

    assert link.url is not None
    cloud = RemoteCloud(link.url, find_token(link.token_file))
    try:
        config = cloud.config()
        served = _served(config, pipe, link.url)
        round_trip, mbps = cloud.measure(REPEATS, DOWNLOAD_BYTES)
    finally:
        cloud.close()
    measured = MeasuredLink(link.url, mbps, round_trip)
    there = f"{link.url}, {config['device']}"
    sources = {name: there if name in SERVED else "this machine" for name in latency.OPERATIONS}
    found = latency.measure(pipe, measured.link, take_turns=take_turns, known=served)
    return replace(
        found,
        link=measured,
        sources=sources | {"transfer_seconds": f"measured to {link.url}"},
    )


def _served(config: Mapping[str, Any], pipe: ECDiffPipeline, url: str) -> dict[str, Timing]:
    """The server's seconds by name."""
    seconds = {name: Timing(**asdict(one)) for name, one in timings_of(config, url).items()}
    theirs: Mapping[str, str] = config["facts"]
    scale = float(theirs["guidance_scale"])
    ours = {name: value for name, value in facts_of(pipe).items() if name in _AS_HERE}
    found = packet.differences(theirs, ours)
    guided = pipe.config.sampling.guidance_scale > 1
    if (scale > 1) != guided:
        found["guidance_scale"] = (theirs["guidance_scale"], str(pipe.config.sampling.guidance_scale))
    if found:
        raise LatencyError(
            f"The server at {url} serves something else (the server's | this study's): "
            f"{packet.listed(found)}.",
            key=url,
            got=found,
            advice="Serve a config of this pair, or give another link.",
        )
    return seconds
