"""Masks of steps as numbers, without cache-dit's blocks: for whoever loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from ecdiff_core.errors import ParamsError
from ecdiff_core.methods.method import Values

POLICIES = ("slow", "medium", "fast", "ultra")
"""cache-dit's own masks, from the most computed calls to the fewest."""


def mask_of(values: Values, num_steps: int) -> tuple[int, ...]:
    """Calls that are computed (1) and reused (0).

    Raises:
        ParamsError: a mask is given that has another number of calls, or does not begin with a computed one.

    >>> mask_of({"warmup": 2, "skipped": 2, "mask": ()}, 8)
    (1, 1, 0, 0, 1, 0, 0, 1)
    """
    given = tuple(values["mask"])
    if given and (len(given) != num_steps or not given[0]):
        raise ParamsError(
            key="method.values.mask",
            got=list(given),
            expected=f"to have {num_steps} numbers, one a call, of which the first is 1",
            advice="Give the mask of this number of steps.",
        )
    warmup, turn = values["warmup"], values["skipped"] + 1
    even = (int(call < warmup or not (call - warmup + 1) % turn) for call in range(num_steps))
    return given or tuple(even)


def presets(num_steps: int) -> Mapping[str, Values]:
    """cache-dit's own masks of so many steps, by their names there; none where it has none, or is missing."""
    if find_spec("cache_dit") is None:
        return {}
    from cache_dit import steps_mask

    try:
        return {name: {"mask": steps_mask(total_steps=num_steps, mask_policy=name)} for name in POLICIES}
    except AssertionError:  # it has none of fewer than 8 steps, but of 4 and 6
        return {}
