"""A space of a person's own: named dimensions, and points that know nothing of cloud and edge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from ecdiff_tune.search.options import SearchError
from ecdiff_tune.search.spaces import Value


class Point(Mapping[str, Any]):
    """A value a dimension, as a mapping that can be a key; ``function(**point)`` calls a function with it.

    >>> Point(k=2, alpha=0.3), dict(Point(k=2)), Point(k=2, alpha=0.3) == Point(alpha=0.3, k=2)
    (Point(k=2, alpha=0.3), {'k': 2}, True)
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, **values: Value) -> None:
        self._values, self._hash = values, hash(frozenset(values.items()))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """The values alone: the hash of a text is another one in another process."""
        return partial(Point, **self._values), ()

    def __repr__(self) -> str:
        return f"Point({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


class Space:
    """Every combination of the values of some dimensions.

    Args:
        dimensions: values by name, at least one and none twice: numbers, which a search may walk along, or
            texts.

    Raises:
        SearchError: a dimension is empty, has a value twice or one of another kind, or there is none.

    >>> Space(k=[1, 2], alpha=[0.3]).grid
    (Point(k=1, alpha=0.3), Point(k=2, alpha=0.3))
    """

    stage: ClassVar[Literal["joint"]] = "joint"

    def __init__(self, **dimensions: Sequence[Value]) -> None:
        if not dimensions:
            raise SearchError(key="a space", got={}, expected="to have a dimension")
        self.dimensions = {name: tuple(values) for name, values in dimensions.items()}
        for name, values in self.dimensions.items():
            if not values or len(set(values)) < len(values):
                expected = "to hold at least one value, none twice"
                raise SearchError(key=name, got=list(values), expected=expected)
            texts = [isinstance(one, str) for one in values]
            if not (all(texts) or self.is_numeric(name)):
                raise SearchError(key=name, got=list(values), expected="to be numbers, or texts")

    def is_numeric(self, name: str) -> bool:
        """Whether a dimension's values are numbers."""
        return all(isinstance(one, int | float) for one in self.dimensions[name])

    def at(self, **values: Value) -> Point:
        """The point with a value for every dimension, in whatever order."""
        return Point(**{name: values[name] for name in self.dimensions})

    @cached_property
    def grid(self) -> tuple[Point, ...]:
        """All points, the last dimension changing fastest."""
        names = tuple(self.dimensions)
        return tuple(
            Point(**dict(zip(names, values, strict=True)))
            for values in itertools.product(*self.dimensions.values())
        )

    @cached_property
    def aliases(self) -> Mapping[Point, Point]:
        """Every point, which is another one's equal nowhere."""
        return {one: one for one in self.grid}

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={list(values)}' for name, values in self.dimensions.items())})"
