"""How a setting is declared, and what is raised where one is out of range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

from ecdiff_core.errors import ECDiffError


def setting(default: Any, help: str) -> Any:
    """A field of a group of settings; its annotation says which values it may have.

    Args:
        help: meaning and unit, for ``--help``, the comments of conf/, README and errors. Limits and choices
            are added from the annotation.
    """
    metadata = {"description": help}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type, help: str) -> Any:
    """A field that holds a group of settings."""
    return field(default_factory=kind, metadata={"description": help})


class SettingsError(ECDiffError):
    """A setting is out of range, or settings contradict each other."""


def check_distinct(key: str, values: Sequence[object]) -> None:
    """Refuse a list that is empty, or has a value twice.

    Raises:
        SettingsError: with what was got.
    """
    if not values or len(set(values)) < len(values):
        raise SettingsError(key=key, got=list(values), expected="to hold at least one value, none twice")
