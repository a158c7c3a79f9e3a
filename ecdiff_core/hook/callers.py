"""Which pipeline a call of a model comes from, told by the stack: a hook on the model is not given it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from diffusers import DiffusionPipeline


def calling_pipeline() -> DiffusionPipeline | None:
    """The diffusers pipeline whose call is under way in this thread, the innermost; None in a plain loop."""
    return next(_pipelines(sys._getframe()), None)


def is_inside_pipeline(thread: int, component: object) -> bool:
    """Whether a thread is in a call of a pipeline with this component, at this moment.

    Args:
        thread: as ``threading.get_ident()`` numbers it; one that ended is in no call.
    """
    found = _pipelines(sys._current_frames().get(thread))
    return any(part is component for pipe in found for part in list(vars(pipe).values()))


def _pipelines(frame: FrameType | None) -> Iterator[DiffusionPipeline]:
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                yield owner
        frame = frame.f_back
