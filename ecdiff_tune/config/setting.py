"""How a setting is declared."""

from __future__ import annotations

from dataclasses import field
from typing import Any


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
