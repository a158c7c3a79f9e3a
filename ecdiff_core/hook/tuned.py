"""A tuned config in a diffusers pipeline: EC-Diff, an acceleration of the model, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ecdiff_core.config import TunedConfig
from ecdiff_core.hook.apply import apply_ecdiff, remove_ecdiff
from ecdiff_core.hook.checks import denoiser_of, without_offload
from ecdiff_core.hook.pipeline_call import is_inside_pipeline
from ecdiff_core.methods.enable import enable, enabled_on
from ecdiff_core.models.families.guidance import is_guided

Pipe = TypeVar("Pipe")


def apply_tuned(
    pipe: Pipe,
    config: TunedConfig | Path | str,
    edge: Any = None,
    *,
    check_scheduler: bool = True,
    check_weights: bool = True,
) -> Pipe:
    """Run a diffusers pipeline as a tuned config says, its ``method`` included.

    From then on ``pipe(...)`` makes its steps as planned, and the real calls of the model are accelerated.
    Called again, it replaces what was applied before; ``remove_tuned`` leaves the pipeline as it was.

    Args:
        pipe, config, edge, check_scheduler, check_weights: as for ``apply_ecdiff``; without an edge model's
            steps ``edge`` is not needed.

    Returns:
        pipe.

    Raises:
        ConfigError, ParamsError, PairError: as ``apply_ecdiff``; the method cannot be used with the model.

    >>> from diffusers import StableDiffusion3Pipeline
    >>> from ecdiff_core import apply_tuned
    >>> pipe = StableDiffusion3Pipeline.from_pretrained("my/model")  # doctest: +SKIP
    >>> apply_tuned(pipe, "first_block_cache.yaml")  # doctest: +SKIP
    """
    if isinstance(config, Path | str):
        config = TunedConfig.load(config)
    choice = config.method
    apply_ecdiff(
        pipe,
        replace(config, method=None),
        edge,
        check_scheduler=check_scheduler,
        check_weights=check_weights,
    )
    model: Any = denoiser_of(pipe)
    _disable(model)
    if choice is None:
        return pipe
    owner: Any = pipe
    try:
        with without_offload(pipe):
            enable(
                choice.method,
                model,
                choice.values,
                num_steps=config.sampling.num_steps,
                guided=is_guided(model, config.sampling.guidance_scale),
                video=config.sampling.num_frames not in (None, 1),
                scheduler=lambda: owner.scheduler,
                busy=lambda thread: is_inside_pipeline(thread, owner.scheduler),
            )
    except Exception:
        remove_ecdiff(pipe)
        raise
    return pipe


def remove_tuned(pipe: Any) -> None:
    """Undo ``apply_tuned``; does nothing where it was not applied."""
    remove_ecdiff(pipe)
    with without_offload(pipe):
        _disable(denoiser_of(pipe))


def _disable(model: Any) -> None:
    if (there := enabled_on(model)) is not None:
        there.disable()
