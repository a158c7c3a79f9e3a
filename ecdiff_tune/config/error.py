"""What is raised of settings."""

from __future__ import annotations

from collections.abc import Sequence

from ecdiff_core.errors import ECDiffError


class SettingsError(ECDiffError):
    """A setting is out of range, or settings contradict each other."""


def check_distinct(key: str, values: Sequence[object]) -> None:
    """Refuse a list that is empty, or has a value twice.

    Raises:
        SettingsError: with what was got.
    """
    if not values or len(set(values)) < len(values):
        raise SettingsError(key=key, got=list(values), expected="to hold at least one value, none twice")
