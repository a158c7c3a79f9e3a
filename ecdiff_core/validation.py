"""Ranges, choices, types and names of keys as pydantic checks them; what is wrong as one ``ECDiffError``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from ecdiff_core.errors import ConfigError, ECDiffError, nearest

Finite = Annotated[float, Field(allow_inf_nan=False)]
AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0)]
Similarity = Annotated[float, Field(ge=-1, le=1)]
"""A mean SSIM."""


@dataclass(frozen=True)
class OneOf:
    """In ``Annotated[str, OneOf(names)]``: for OmegaConf, which knows no Literal, text."""

    names: Iterable[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(Literal[tuple(self.names)])


_LIMITS = {
    "greater_than_equal": ">= {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "<= {le}",
    "less_than": "< {lt}",
    "finite_number": "to be a finite number",
}
"""What is expected of a value out of range, by pydantic's name of the error."""
_TYPES = {
    "int": "to be a whole number",
    "float": "to be a number",
    "string": "to be text",
    "bool": "to be true or false",
    "tuple": "to be a list",
    "list": "to be a list",
    "dict": "to be a mapping",
    "dataclass": "to hold keys",
}
"""What is expected of a value of another type, by the beginning of pydantic's name of the error."""


def check_fields(value: Any, error: type[ECDiffError], prefix: str = "") -> None:
    """Refuse a dataclass of which a field is out of range or none of its choices; for ``__post_init__``.

    Args:
        error: what is raised.
        prefix: of the fields' names in it.
    """
    kind: Any = type(value)
    try:
        _fields(kind).validate_python({one.name: getattr(value, one.name) for one in fields(value)})
    except ValidationError as found:
        raise user_error(found, kind, error, prefix) from None


def check_type(
    what: str,
    value: object,
    kind: type | tuple[type, ...],
    expected: str,
    error: type[ECDiffError] = ConfigError,
) -> None:
    """Refuse an argument that is no ``kind``, before it fails somewhere else.

    Raises:
        ECDiffError: of class ``error``.
    """
    if not isinstance(value, kind):
        raise error(key=what, got=value, expected=f"to be {expected}")


@lru_cache
def _fields(cls: Any) -> TypeAdapter[Any]:
    """Of a twin without ``__post_init__``."""
    hints = get_type_hints(cls, include_extras=True)
    return TypeAdapter(make_dataclass(cls.__name__, [(one.name, hints[one.name]) for one in fields(cls)]))


def user_error(
    found: ValidationError,
    cls: type,
    error: type[ECDiffError],
    prefix: str = "",
    meanings: Mapping[str, str] | None = None,
) -> ECDiffError:
    """The first fault that pydantic found: an unknown key, then a missing one, then a value.

    Args:
        cls: the dataclass that was to be made.
        error: what is returned of values out of range; of keys and types it is a ConfigError.
        prefix: of the keys.
        meanings: by key, for who is to give another value.
    """
    details, order = found.errors(include_url=False), ["unexpected_keyword_argument", "missing"]
    first = min(details, key=lambda one: order.index(one["type"]) if one["type"] in order else len(order))
    kind, place, got, context = first["type"], first["loc"], first["input"], first.get("ctx", {})
    key = prefix + _path(place)
    if kind == "unexpected_keyword_argument":
        known = [one.name for one in fields(_dataclass_in(_hint_at(cls, place[:-1])))]
        line = f"Unknown key {key}: {nearest(str(place[-1]), known)}."
        return ConfigError(line, key=key, got=got, expected=known)
    if kind == "missing":
        keys = [prefix + _path(one["loc"]) for one in details if one["type"] == kind]
        return ConfigError(f"Missing {', '.join(keys)}.", key=key)
    if isinstance(raised := context.get("error"), ECDiffError):  # by a ``__post_init__``
        return raised
    if kind == "literal_error":
        return error.unknown(key, got, re.findall("'([^']*)'", context["expected"]))
    if kind in _LIMITS:
        limits = {name: f"{one:g}" if isinstance(one, float) else one for name, one in context.items()}
        expected = _LIMITS[kind].format(**limits)
    else:
        error, of_row = ConfigError, isinstance(place[-1], int)
        expected = _TYPES.get(kind.partition("_")[0], "to be another value")
        expected += " or null" * (not of_row and type(None) in get_args(_hint_at(cls, place)))
    meaning = (meanings or {}).get(key.partition("[")[0])
    return error(key=key, got=got, expected=expected, advice=f"Meaning: {meaning}." if meaning else "")


def _path(place: Sequence[str | int]) -> str:
    """A place as a person names it.

    >>> _path(("pair", "lora", 0, "on"))
    'pair.lora[0].on'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _hint_at(cls: type, place: Sequence[str | int]) -> Any:
    """The type of what is at a place in a dataclass; of a row of a list that of the list."""
    hint: Any = cls
    for part in place:
        hint = get_type_hints(_dataclass_in(hint))[part] if isinstance(part, str) else hint
    return hint


def _dataclass_in(hint: Any) -> Any:
    return next(one for one in (hint, *get_args(hint)) if is_dataclass(one))
