"""The token that client and server share: from a file or the environment, never from the command line."""

from __future__ import annotations

import os
from pathlib import Path

from ecdiff_core.errors import ParamsError

VARIABLE = "ECDIFF_TOKEN"
_LEAST, _MOST = 16, 1024
"""Characters; 22 of random letters and digits hold 128 bits, and headers have an end."""


def find_token(path: Path | None) -> str | None:
    """The token in a file; without one, that of the environment variable ``ECDIFF_TOKEN``, if there is any.

    Raises:
        ParamsError: the file cannot be read, or the token is short, long or not printable.
    """
    if path is None:
        found = os.environ.get(VARIABLE)
        return None if not found else _checked(found, VARIABLE)
    try:
        return _checked(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ParamsError(f"Cannot read the token file {path}: {reason}.", key=str(path)) from error


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if not _LEAST <= len(token) <= _MOST or not token.isascii() or not token.isprintable() or " " in token:
        raise ParamsError(
            f"Expected {source} to hold a token of {_LEAST} to {_MOST} printable ASCII characters without "
            "spaces.",
            key=source,
            expected=f"{_LEAST} to {_MOST} printable ASCII characters",
            advice='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return token
