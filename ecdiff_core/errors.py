"""Errors that a user can act on. A command prints one as a single line and exits with status 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from ecdiff_core.spelling import meant

_Error = TypeVar("_Error", bound="ECDiffError")


class ECDiffError(Exception):
    """Root of every error that the user can act on; anything else is a bug and keeps its traceback.

    Args:
        line: what is wrong, in whole sentences; where it is left out, it is composed of the next three.
        key: what the user set or gave: a setting, an argument, a file; of a part of the models, its name.
        got: its value; of what only settings together make wrong, all of theirs by name.
        expected: what its value may be, in words that follow ``Expected KEY``; or the names it may have.
        advice: what to do, in whole sentences; the printed line ends with it.

    >>> str(ECDiffError(key="p", expected="<= s", got={"p": 40, "s": 34}, advice="Lower p or raise s."))
    'Expected p <= s, got p=40, s=34. Lower p or raise s.'
    """

    def __init__(
        self,
        line: str = "",
        *,
        key: str,
        got: object = None,
        expected: str | Sequence[str] = "",
        advice: str = "",
    ) -> None:
        self.key, self.got, self.expected, self.advice = key, got, expected, advice
        line = line or f"Expected {key} {expected}, got {shown(got)}."
        super().__init__(f"{line} {advice}" if advice else line)

    @classmethod
    def unknown(cls, key: str, got: object, choices: Iterable[str], advice: str = "") -> Self:
        """Of a name that is none of the choices; the line names the nearest.

        >>> str(ECDiffError.unknown("handoff", "exakt", ["aligned", "exact"]))
        "Unknown handoff 'exakt': choose from aligned, exact (did you mean exact?)."
        """
        known = sorted(choices)
        line = f"Unknown {key} {got!r}: {nearest(str(got), known)}."
        return cls(line, key=key, got=got, expected=known, advice=advice)

    def renamed(self, key: str, typed: str) -> Self:
        """The same error about a setting that the user knows by another name, or about a part of it.

        >>> error = ECDiffError(key="method.values.ratio", expected="<= 0.75", got=1)
        >>> str(error.renamed("method.values", "acceleration.values"))
        'Expected acceleration.values.ratio <= 0.75, got 1.'
        """
        if self.key != key and not self.key.startswith(f"{key}."):
            return self
        own = {**vars(self), "key": self.key.replace(key, typed, 1)}
        return _again(type(self), str(self).replace(key, typed), own)

    def of(self, source: str) -> Self:
        """The same error, its line beginning with the file that it is about."""
        line = str(self) if str(self).startswith(source) else f"{source}: {self}"
        return _again(type(self), line, vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy, which would give the line alone."""
        return _again, (type(self), str(self), vars(self))


def _again(kind: type[_Error], line: str, attributes: Mapping[str, Any]) -> _Error:
    error = kind.__new__(kind, line)
    error.__dict__.update(attributes)
    return error


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


class CloudError(ECDiffError):
    """The server refuses: another config, a wrong token, a prompt that is too long."""


class CloudUnavailableError(ECDiffError):
    """The server cannot be reached, is overloaded, or what it answers does not arrive whole."""


_SHOWN = 60
"""Characters of a wrong value that an error shows."""


def shown(value: object) -> str:
    """A value on one line, its beginning where it is long (another file's content, say).

    >>> shown("a"), shown(0.3), shown({"p": 40, "s": 34}), shown("0123456789" * 9)[-6:]
    ("'a'", '0.3', 'p=40, s=34', '45678…')
    """
    if isinstance(value, Mapping) and value:
        text = ", ".join(f"{name}={one!r}" for name, one in value.items())
    else:
        text = " ".join(repr(value).splitlines())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
