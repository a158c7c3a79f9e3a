"""Errors as problem+json (RFC 9457): what a client sees, without a traceback."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.tensor_file import TensorFileError
from ecdiff_core.serving.packet import PacketError
from ecdiff_core.serving.worker import BusyError, DeadlineError, StoppedError

_TITLES = {
    400: "bad request",
    401: "no or a wrong token",
    404: "not found",
    405: "method not allowed",
    408: "the body came too slowly",
    409: "another config",
    411: "Content-Length is missing",
    413: "too large",
    415: "another media type",
    421: "for another host",
    422: "not as expected",
    429: "busy",
    431: "headers too large",
    500: "an error of the server",
    501: "not offered",
    503: "not in time",
}


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers or {}, more

    @property
    def response(self) -> Response:
        """As a client gets it."""
        tree = {"title": _TITLES.get(self.status, "error"), "status": self.status, "detail": self.detail}
        return Response(
            json.dumps({**tree, **self.more}),
            self.status,
            self.headers,
            media_type="application/problem+json",
        )


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BusyError):
        return Problem(429, str(error), {"Retry-After": str(math.ceil(error.seconds))})
    if isinstance(error, DeadlineError):
        return Problem(503, str(error), estimate_seconds=error.seconds)
    if isinstance(error, StoppedError):
        return Problem(503, str(error), {"Retry-After": "1"})
    if isinstance(error, PacketError | TensorFileError):
        return Problem(422, str(error))
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        # Not what was sent: it may be a prompt.
        found = [
            f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()[:3]
        ]
        return Problem(422, "; ".join(found))
    if isinstance(error, ECDiffError):
        return Problem(500, str(error))
    return Problem(500, "The server failed at this; its log says why.")


def install(app: FastAPI) -> None:
    """Let every error leave the app as a problem."""

    async def answer(_: Request, error: Exception) -> Response:
        return problem_of(error).response

    for kind in (Problem, ECDiffError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)
