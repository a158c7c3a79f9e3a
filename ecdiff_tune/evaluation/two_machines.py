"""The latency profile of two machines: a server's cloud call, this machine's edge call, the link between."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving import packet
from ecdiff_core.serving.commands import with_extra
from ecdiff_core.serving.handoff_form import facts_of
from ecdiff_core.serving.seconds import SERVED
from ecdiff_core.serving.token_file import find_token
from ecdiff_tune.evaluation import latency
from ecdiff_tune.evaluation.latency import LatencyError, LatencyProfile, Timing
from ecdiff_tune.evaluation.link import Link, MeasuredLink

if TYPE_CHECKING:
    from ecdiff_core.serving.client import RemoteCloud
    from ecdiff_core.serving.server_config import ServerConfig

REPEATS = 10
"""Measurements of the round trip, and of the bandwidth."""
DOWNLOAD_BYTES = 2**20
_WEIGHTS, _ALWAYS = ("cloud", "edge"), ("size", "dtype")
"""Facts of a server that its seconds depend on; its plan may be any. Those of weights may be unknown."""


def check_server(link: Link) -> None:
    """Whether the server at a link's URL answers, before anything is loaded for it; none is asked without.

    Raises:
        ECDiffError: as ``measure``, and where the token cannot be read.
    """
    if link.url is not None:
        cloud = _cloud_at(link)
        try:
            cloud.config()
        finally:
            cloud.close()


def _cloud_at(link: Link) -> RemoteCloud:
    with with_extra():
        from ecdiff_core.serving.client import RemoteCloud

    assert link.url is not None
    return RemoteCloud(link.url, find_token(link.token_file))


def measure(pipe: ECDiffPipeline, link: Link, *, take_turns: bool = True) -> LatencyProfile:
    """A profile with the server's seconds of ``SERVED``, this machine's of the rest, over the link as it is.

    Args:
        link: its URL is the server's.
        take_turns: as ``latency.measure``.

    Raises:
        CloudError, CloudUnavailableError: the server refuses, or cannot be had.
        LatencyError: it serves another pair, size, dtype or guidance.
    """
    assert link.url is not None
    cloud = _cloud_at(link)
    try:
        config = cloud.config()
        served = _served(config, pipe, link.url)
        round_trip, mbps = cloud.measure(REPEATS, DOWNLOAD_BYTES)
    finally:
        cloud.close()
    measured = MeasuredLink(link.url, mbps, round_trip)
    there = f"{link.url}, {config.device}"
    sources = {name: there if name in SERVED else "this machine" for name in latency.OPERATIONS}
    found = latency.measure(pipe, measured.link, take_turns=take_turns, known=served)
    return replace(
        found,
        link=measured,
        sources=sources | {"transfer_seconds": f"measured to {link.url}"},
    )


def _served(config: ServerConfig, pipe: ECDiffPipeline, url: str) -> dict[str, Timing]:
    """The server's seconds by name."""
    ours = {name: value for name, value in facts_of(pipe).items() if name in _WEIGHTS + _ALWAYS}
    found = packet.differences(config.facts, ours, required=_ALWAYS)
    scale = pipe.config.sampling.guidance_scale
    if (config.guidance_scale > 1) != (scale > 1):
        found["guidance_scale"] = (str(config.guidance_scale), str(scale))
    if found:
        raise LatencyError(
            f"The server at {url} serves something else (the server's | this study's): "
            f"{packet.listed(found)}.",
            key=url,
            got=found,
            advice="Serve a config of this pair, or give another link.",
        )
    return {name: Timing(**asdict(one)) for name, one in config.timings.items()}
