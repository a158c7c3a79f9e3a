"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff_core.errors import ParamsError
from ecdiff_core.validation import AtLeast1, Positive, check_fields


@dataclass(frozen=True)
class Limits:
    """Of a server.

    Args:
        batch_size: samples in one call of the model; halved where memory runs out.
        queue: requests that wait beside those under way; more are answered with 429.
        sessions: images under way at edges whose plans ask for the cloud again.
        session_seconds: without a call, after which a session is forgotten.
        prompt_chars: of a prompt and of a negative prompt, each.
        body_seconds: in which a body is to arrive.
        reader_seconds: in which a client is to take what was sent to it; then its connection ends (Linux).
        drain_seconds: for requests under way when the server is to stop.
        answers: that are kept for clients that lost their connection, ``answer_seconds`` long.
        grace_seconds: in which such a client is to ask again with its Idempotency-Key, or its place is freed.

    Raises:
        ParamsError: one is out of range.
    """

    batch_size: AtLeast1 = 16
    queue: AtLeast1 = 64
    sessions: AtLeast1 = 64
    session_seconds: Positive = 120.0
    prompt_chars: AtLeast1 = 2000
    body_seconds: Positive = 10.0
    reader_seconds: Positive = 30.0
    drain_seconds: AtLeast1 = 30
    answers: AtLeast1 = 64
    answer_seconds: Positive = 60.0
    grace_seconds: Positive = 2.0

    def __post_init__(self) -> None:
        check_fields(self, ParamsError)
