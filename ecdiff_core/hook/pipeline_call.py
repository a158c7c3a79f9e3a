"""The call of a pipeline that a call of its model comes from, and which of its arguments a plan bears.

It is read off the stack, for a hook is not given it. What both models are given alike (prompts, embeddings,
``clip_skip``, sizes and crops of SDXL, the scale of a LoRA) or what comes after the last step is the call's
own affair.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline

from ecdiff_core.config import Sampling
from ecdiff_core.errors import ParamsError

_EXTRA = {
    "eta": "draws fresh noise at every step",
    "guidance_rescale": "rescales every step by both branches' spread, which approximated steps do not have",
    "skip_guidance_layers": "asks the model once more in some of the steps",
    "pag_scale": "perturbs the attention of the cloud model, not of the edge",
}
"""Arguments of which the config's plan knows nothing, and what they do; 0 and None switch them off."""
_KEPT_ON_PIPELINE = ("guidance_scale", "guidance_rescale", "pag_scale")
"""Arguments that a pipeline reads from itself at every step."""
_VARYING = ("callback_on_step_end", "use_dynamic_cfg", "guidance_schedule")
"""With one of them the call may change its scale itself."""


@dataclass(frozen=True)
class PipelineCall:
    """A call of a diffusers pipeline that is under way.

    Args:
        arguments: by name, those that were left out with their defaults.
    """

    pipe: DiffusionPipeline
    arguments: Mapping[str, Any]


def current_call() -> PipelineCall | None:
    """The one that is under way in this thread, the innermost; None in a plain loop."""
    return next(_calls(sys._getframe()), None)


def is_inside_pipeline(thread: int, component: object) -> bool:
    """Whether a thread is in a call of a pipeline with this component, at this moment.

    Args:
        thread: as ``threading.get_ident()`` numbers it; one that ended is in no call.
    """
    found = _calls(sys._current_frames().get(thread))
    return any(part is component for call in found for part in list(vars(call.pipe).values()))


def _calls(frame: FrameType | None) -> Iterator[PipelineCall]:
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_varnames[:1] == ("self",):
            names, found = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount], frame.f_locals
            if isinstance(owner := found.get("self"), DiffusionPipeline):
                yield PipelineCall(owner, {name: found[name] for name in names if name in found})
        frame = frame.f_back


def refuse_arguments(call: PipelineCall | None, sampling: Sampling) -> None:
    """Refuse a call with arguments for which the config's plan does not hold.

    Args:
        call: None, for a loop of one's own, has none.

    Raises:
        ParamsError: it has.
    """
    if call is None:
        return
    given = call.arguments
    for name, effect in _EXTRA.items():
        if given.get(name) and _is_read(name, call.pipe):
            off = "Pass pag_scale=0" if name == "pag_scale" else "Leave it out"  # which is on by default
            raise ParamsError(
                f"The call has {name}={given[name]!r}, which {effect}; the config was tuned without it.",
                key=name,
                got=given[name],
                advice=f"{off}, or call remove_ecdiff(pipe) first.",
            )
    names = ["use_dynamic_cfg"]
    if sampling.use_dynamic_cfg:  # what the hook remembers is guided by the config's scale
        names.append("guidance_scale")
    for name in names:
        tuned = getattr(sampling, name)
        if name in given and given[name] != tuned:
            raise ParamsError(
                key=name,
                got=given[name],
                expected=f"= {tuned!r}, which the config was tuned for",
                advice="Give the call that, or tune again.",
            )


def _is_read(name: str, pipe: Any) -> bool:
    if name == "eta":  # of most schedulers diffusers does not hand it over
        return name in inspect.signature(pipe.scheduler.step).parameters
    return name == "pag_scale" or bool(getattr(pipe, "do_classifier_free_guidance", True))


def guidance_note(call: PipelineCall | None, tuned: float) -> str:
    """Says so where a call has another guidance scale than the config; 1 and less are none.

    Args:
        call: None, or one whose pipeline does not tell its scale, says nothing.
        tuned: the config's guidance scale.
    """
    if call is None or "true_cfg_scale" in call.arguments:
        return ""  # Flux, Qwen: the other scale is an input of the model
    scale = getattr(call.pipe, "guidance_scale", None)
    if not isinstance(scale, int | float) or scale == tuned or max(scale, tuned) <= 1:
        return ""
    return (
        f"The call has guidance_scale={scale:g}, the config was tuned with {tuned:g}: p, k, alpha and s hold "
        f"for no other. Pass guidance_scale={tuned:g}, or tune again with sampling.guidance_scale={scale:g}."
    )


def check_undisturbed(call: PipelineCall | None) -> None:
    """Refuse to go on with a call whose settings another thread's call has overwritten on the pipeline.

    Raises:
        ParamsError: it has.
    """
    if call is None or any(call.arguments.get(name) for name in _VARYING):
        return
    for name in _KEPT_ON_PIPELINE:
        given, now = call.arguments.get(name), getattr(call.pipe, f"_{name}", None)
        if None not in (given, now) and given != now:
            raise busy()


def busy() -> ParamsError:
    """The error of a call that comes in the middle of another thread's."""
    return ParamsError(
        "Another call of this pipeline is under way in another thread, and a pipeline has one scheduler for "
        "all of its calls: let calls wait for each other (a lock), load a pipeline a thread, or use "
        "ECDiffPipeline.",
        key="pipe",
        got="busy",
    )
