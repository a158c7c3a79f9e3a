"""What a server answers of itself is believed in no field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ecdiff_core.errors import CloudError
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.server_config import read_config

from ...refusals import refused

URL = "http://gpu:8000"
SPREAD = {"median": 0.2, "low": 0.1, "high": 0.3}
ANSWER: dict[str, Any] = {
    "version": "0.1",
    "format_version": 1,
    "facts": {"guidance_scale": "3.0", "schedule": "2C1E"},
    "device": "cuda (a GPU)",
    "seconds": {"cloud_call": SPREAD, "encode": {**SPREAD, "low": 0.2}},
    "seconds_per_call": 0,
    "of_a_later_version": [1],
}
GONE = object()


def changed(place: str, value: Any) -> bytes:
    """The answer with another value at a place such as ``seconds.encode.low``, or none."""
    tree = json.loads(json.dumps(ANSWER))
    *path, last = place.split(".")
    inner = tree
    for name in path:
        inner = inner[name]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(tree).encode()


def test_a_sound_answer() -> None:
    found = read_config(json.dumps(ANSWER).encode(), URL)
    assert found.timings == {"cloud_call": Spread(0.2, 0.1, 0.3), "encode": Spread(0.2, 0.2, 0.3)}
    assert (found.guidance_scale, found.device, found.version) == (3.0, "cuda (a GPU)", "0.1")
    assert found.facts["schedule"] == "2C1E"


@pytest.mark.parametrize(
    "place", ["version", "format_version", "facts", "device", "seconds", "seconds_per_call"]
)
@pytest.mark.parametrize(
    "value", [GONE, None, [], {}, True, float("nan"), float("inf"), -1, "\x1b[2J", "x" * 20_000]
)
def test_no_field_is_believed(place: str, value: object) -> None:
    with refused(CloudError, key=URL):
        read_config(changed(place, value), URL)


@pytest.mark.parametrize("place", ["seconds.encode", "seconds.cloud_call.median", "seconds.encode.low"])
@pytest.mark.parametrize("value", [GONE, None, "0.1", True, 0, -0.1, 1e9, float("nan"), 10**400, [0.1]])
def test_seconds_are_those_of_a_call(place: str, value: object) -> None:
    with refused(CloudError, key=URL):
        read_config(changed(place, value), URL)


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("seconds.encode.high", 0.15, "seconds.encode"),
        ("format_version", 2, "format_version"),
        ("facts.schedule", 3, "facts.schedule"),
        ("facts.guidance_scale", "high", ""),
        ("facts.guidance_scale", "nan", ""),
        ("facts.guidance_scale", GONE, ""),
        ("facts", {"guidance_scale": "1"} | {str(i): "" for i in range(100)}, "facts"),
        ("facts", {"guidance_scale": "1", "a\nb": ""}, "facts.a\nb.[key]"),
    ],
)
def test_the_field_at_fault_is_named(place: str, value: object, field: str) -> None:
    with refused(CloudError, key=URL, got=field):
        read_config(changed(place, value), URL)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b"[" * 50_000, b'{"a":' * 50_000, b"\xff", b"1" * 5000]
)
def test_what_is_no_mapping(content: bytes) -> None:
    with refused(CloudError, key=URL, got=""):
        read_config(content, URL)
