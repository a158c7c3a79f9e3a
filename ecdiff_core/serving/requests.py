"""What a request's JSON may hold; read strictly, since whoever sends it may mean harm."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ecdiff_core.io.text import is_unicode
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_core.sampling.plan import Mode
from ecdiff_core.serving.cloud_side import Asked
from ecdiff_core.serving.packet import Encoding
from ecdiff_core.serving.problems import Problem

Request = TypeVar("Request", bound=BaseModel)
_MAX_FACTS = 40
_MOST_KEYS = 2 * _MAX_FACTS
"""Of one object: of more, telling what is wrong would take long."""


class ImageRequest(BaseModel):
    """An image by the cloud alone."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str
    negative_prompt: str | None = None
    seed: int = Field(0, ge=0, le=MAX_SEED)
    deadline_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    config: dict[str, str] = Field({}, max_length=_MAX_FACTS)

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        if text is not None and not is_unicode(text):
            raise ValueError("not UTF-8 text")
        return text

    def asked(self, mode: Mode) -> Asked:
        return Asked(self.prompt, self.negative_prompt, self.seed, mode)


class HandoffRequest(ImageRequest):
    """The cloud's part of an image; ``config`` holds the edge's facts, to be compared with the server's."""

    mode: Mode = "ecdiff"
    packet: Encoding = "computed"


def read_request(model: type[Request], body: bytes, media_type: str) -> Request:
    """A request of that form.

    Raises:
        Problem: 415 of another media type (a form that a web page sends unasked has one), 400 where the body
            is no JSON or has a name twice, 422 where it is of another form.
    """
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "Expected a body of the media type application/json.")
    try:
        tree = json.loads(body, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "Expected the body to be JSON, with each name once.") from error
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        # Not what was sent: it may be a prompt.
        found = error.errors(include_url=False, include_input=False, include_context=False)[:3]
        texts = [f"{'.'.join(str(part)[:40] for part in one['loc'])}: {one['msg']}" for one in found]
        raise Problem(422, "; ".join(texts)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or len(found) > _MOST_KEYS:
        raise ValueError
    return found


def _refuse(name: str) -> float:
    """NaN and infinities, which JSON does not have."""
    raise ValueError(name)
