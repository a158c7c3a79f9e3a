"""What a server answers of itself (``GET /v1/config``); a client believes no field of it unseen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ecdiff_core.errors import CloudError
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.packet import FORMAT_VERSION
from ecdiff_core.serving.seconds import Timings

_MOST_SECONDS = 3600.0
"""Of one call: more is no measurement."""
_MOST_FACTS, _MOST_CHARS = 100, 2**14
"""A schedule of a thousand steps takes some thousand characters."""


@dataclass(frozen=True)
class ServerConfig:
    """Of a server.

    Args:
        version: of its ecdiff.
        device: on which it computes.
        facts: that an edge's are compared with.
        guidance_scale: of its config.
        timings: seconds of ``cloud_call`` and ``encode``, of one image alone.
        seconds_per_call: the running mean, whatever the batch; 0 before the first.
    """

    version: str
    device: str
    facts: Mapping[str, str]
    guidance_scale: float
    timings: Timings
    seconds_per_call: float


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("Text should be printable")
    return text


def _number(text: str) -> str:
    if not math.isfinite(float(text)):
        raise ValueError("Text should be a finite number")
    return text


_Text = Annotated[str, Field(max_length=_MOST_CHARS), AfterValidator(_printable)]
_Seconds = Annotated[float, Field(gt=0, le=_MOST_SECONDS)]
_MODEL = ConfigDict(strict=True)


class _Spread(BaseModel):
    model_config = _MODEL
    median: _Seconds
    low: _Seconds
    high: _Seconds

    @model_validator(mode="after")
    def _is_in_order(self) -> _Spread:
        if not self.low <= self.median <= self.high:
            raise ValueError("The median should lie between low and high")
        return self

    def spread(self) -> Spread:
        return Spread(self.median, self.low, self.high)


class _Served(BaseModel):
    model_config = _MODEL
    cloud_call: _Spread
    encode: _Spread


class _Config(BaseModel):
    """What is not named here may be a later version's."""

    model_config = _MODEL
    version: _Text
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    device: _Text
    facts: Annotated[dict[_Text, _Text], Field(max_length=_MOST_FACTS)]
    seconds: _Served
    seconds_per_call: Annotated[float, Field(ge=0, le=_MOST_SECONDS)]

    @model_validator(mode="after")
    def _has_a_scale(self) -> _Config:
        _number(self.facts.get("guidance_scale", ""))
        return self


def read_config(content: bytes, url: str) -> ServerConfig:
    """The answer of the server at a URL.

    Raises:
        CloudError: ``ecdiff serve`` of this version does not answer so; ``got`` is the first field at fault.
    """
    try:
        found = _Config.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part)[:40] for part in first["loc"])
        why = ascii(f"{field}: {first['msg']}" if field else first["msg"])[1:-1]
        raise CloudError(
            f"{url} does not answer as a server of ecdiff serve does ({why[:200]}).",
            key=url,
            got=field,
            expected="the config of ecdiff serve",
            advice="Check the URL, and give both machines one version of ecdiff.",
        ) from error
    return ServerConfig(
        found.version,
        found.device,
        found.facts,
        float(found.facts["guidance_scale"]),
        {"cloud_call": found.seconds.cloud_call.spread(), "encode": found.seconds.encode.spread()},
        found.seconds_per_call,
    )
