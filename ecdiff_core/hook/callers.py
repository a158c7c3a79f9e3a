"""Which call of a pipeline a call of its model comes from, read off the stack: a hook is not given it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Call:
    """A call of a diffusers pipeline that is under way.

    Args:
        arguments: by name, those that were left out with their defaults.
    """

    pipe: DiffusionPipeline
    arguments: Mapping[str, Any]


def current_call() -> Call | None:
    """The one that is under way in this thread, the innermost; None in a plain loop."""
    return next(_calls(sys._getframe()), None)


def is_inside_pipeline(thread: int, component: object) -> bool:
    """Whether a thread is in a call of a pipeline with this component, at this moment.

    Args:
        thread: as ``threading.get_ident()`` numbers it; one that ended is in no call.
    """
    found = _calls(sys._current_frames().get(thread))
    return any(part is component for call in found for part in list(vars(call.pipe).values()))


def _calls(frame: FrameType | None) -> Iterator[Call]:
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_varnames[:1] == ("self",):
            names, found = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount], frame.f_locals
            if isinstance(owner := found.get("self"), DiffusionPipeline):
                yield Call(owner, {name: found[name] for name in names if name in found})
        frame = frame.f_back
