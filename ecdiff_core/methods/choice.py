"""A method with its values, as a YAML names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ecdiff_core.methods import get_method
from ecdiff_core.methods.method import Method


@dataclass(frozen=True)
class MethodChoice:
    """An acceleration of the cloud model.

    Args:
        name: one of ``METHODS``.
        values: of its parameters; completed by their defaults.

    Raises:
        ConfigError: there is no such method.
        ParamsError: a value is unknown or out of range.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.method.complete(self.values))

    @property
    def method(self) -> Method:
        """What it is."""
        return get_method(self.name)

    @property
    def text(self) -> str:
        """Name and values in words."""
        return self.method.describe(self.values)

    def tree(self) -> dict[str, Any]:
        """As the YAML has it."""
        return {"name": self.name, "values": dict(self.values)}
