"""Errors that a user can act on. A command prints one as a single line and exits with status 2."""

from __future__ import annotations

from collections.abc import Iterable

from ecdiff_core.spelling import meant


class ECDiffError(Exception):
    """Root of every error that the user can act on; anything else is a bug and keeps its traceback."""


class ParamsError(ECDiffError, ValueError):
    """(p, k, alpha, s), the number of steps or a sampling setting is out of range."""


class ConfigError(ECDiffError, ValueError):
    """A tuned config cannot be read, or asks for something that does not exist."""


class PairError(ECDiffError):
    """The two models cannot be loaded, or do not fit together."""


class NonFiniteLatentsError(ECDiffError):
    """A denoising step or the decoder left the finite numbers."""


class OutputError(ECDiffError):
    """A file cannot be written."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choices, and the one that was probably meant: by another name, by its beginning, or mistyped.

    >>> nearest("greddy", ["greedy", "exhaustive"])
    'choose from exhaustive, greedy (did you mean greedy?)'
    >>> nearest("fp16", ["float16", "float32"])
    'choose from float16, float32 (did you mean float16?)'
    """
    known = sorted(choices)
    name = meant(word, known)
    hint = f" (did you mean {name}?)" if name else ""
    return f"choose from {', '.join(known)}{hint}"


def first_line(error: BaseException) -> str:
    """The first line of what another library raised, without a full stop; its class where it says nothing.

    >>> first_line(ValueError("no such file.\\nTry another.")), first_line(MemoryError())
    ('no such file', 'MemoryError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def reason_of(error: Exception) -> str:
    """What another library raised, on one line, without a full stop.

    >>> reason_of(ValueError("no such file.\\nTry another."))
    'ValueError: no such file'
    """
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
