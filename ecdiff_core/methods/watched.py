"""A threshold that notes what it is compared with: so it is known which other ones would decide alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


class Watched(float):
    """A threshold. Numbers and tensors are compared with it as with any float.

    Python asks it first, for it is a subclass; torch does by ``__torch_function__``.
    """

    _seen: list[float]

    def __new__(cls, value: float) -> Watched:
        made = super().__new__(cls, value)
        made._seen = []
        return made

    def interval(self) -> tuple[float, float]:
        """The thresholds from the first, included, to the second that decide as this one did."""
        own = float(self)  # which notes nothing
        below = [one for one in self._seen if one <= own]
        above = [one for one in self._seen if one > own]
        return max(below, default=-math.inf), min(above, default=math.inf)

    def forget(self) -> None:
        """Drop what was compared."""
        self._seen.clear()

    def _note(self, other: Any) -> float:
        self._seen.append(float(other))
        return float(self)

    def __lt__(self, other: Any) -> bool:
        return self._note(other) < other

    def __le__(self, other: Any) -> bool:
        return self._note(other) <= other

    def __gt__(self, other: Any) -> bool:
        return self._note(other) > other

    def __ge__(self, other: Any) -> bool:
        return self._note(other) >= other

    def __eq__(self, other: object) -> bool:
        return float(self) == other

    def __hash__(self) -> int:
        return float.__hash__(self)

    def __reduce__(self) -> Any:
        return float, (float(self),)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        others = [float(one) for one in args if not isinstance(one, Watched)]
        for one in args:
            if isinstance(one, Watched):
                one._seen.extend(others)
        return function(*(float(one) if isinstance(one, Watched) else one for one in args), **(kwargs or {}))
