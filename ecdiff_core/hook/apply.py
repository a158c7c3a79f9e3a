"""EC-Diff switched on and off in an unmodified diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ConfigError, PairError
from ecdiff_core.hook.checks import denoiser_of, hook_on, put_hook, take_hook, without_offload
from ecdiff_core.hook.ecdiff_hook import ECDiffHook

Pipe = TypeVar("Pipe")


def apply_ecdiff(
    pipe: Pipe,
    config: TunedConfig | Path | str,
    edge: Any = None,
    *,
    check_scheduler: bool = True,
    check_weights: bool = True,
) -> Pipe:
    """Share the generations of a diffusers pipeline with an edge model, as a tuned config says.

    From then on ``pipe(...)`` makes its steps as planned, and ``pipe.ecdiff`` (``ECDiffHook``) tells what the
    last call did. The pipeline's own settings stay in force: prompts, guidance scale, size, callbacks, LoRA
    (the cloud's alone: load one for the edge model too; a warning says where that lacks). Called again, it
    replaces what was applied before.
    The hook sits on the denoiser, so it acts in every pipeline that has the same one (``from_pipe``).

    Some arguments of the call do not reach the denoiser, and so are not set: give the config's
    ``guidance_scale`` (a warning says where it is another) and ``use_dynamic_cfg``. Then the latents are
    those of ``ECDiffPipeline``. A call with ``eta``, ``guidance_rescale``, skip-layer guidance or PAG, which
    were not tuned for, is refused.

    One call at a time: a diffusers pipeline has one scheduler, one guidance scale for all of its calls. A
    second call that begins meanwhile in another thread has reset them before its first step, so that both are
    refused. ``ECDiffPipeline`` may be called by several threads.

    A model to be compiled with ``fullgraph=True`` must be compiled before this (``pipe.unet =
    torch.compile(pipe.unet, fullgraph=True)``), or block by block (``pipe.unet.compile_repeated_blocks``).

    Args:
        pipe: a diffusers pipeline with one denoiser, ``unet`` or ``transformer``: the cloud model.
        config: tuned for the pair, or the YAML file with it.
        edge: a diffusers pipeline (its denoiser is used; for ``handoff_adapter: matched`` also its noise
            schedule) or the denoiser itself, on the cloud's device and in its dtype; None for a plan without
            calls of it.
        check_scheduler: refuse a scheduler that is not the config's, has other settings or timesteps, is one
            for other models, or draws fresh noise at every step.
        check_weights: refuse models that are not those the config was tuned for, now and not later; False for
            a LoRA that is loaded already, fused weights or a fine-tune.

    Returns:
        pipe.

    Raises:
        ConfigError: the config is none, cannot be read, or asks for ``matched`` with an edge that is no
            pipeline.
        ParamsError: the scheduler is not the config's, or has no noise schedule for ``matched``; the edge
            pipeline's tells that ``identity`` cannot be.
        PairError: the pipeline or the edge model cannot be used, or has other weights than tuned for.

    A generation raises ParamsError when it has another number of steps or another size than the config,
    arguments that the plan does not hold for, a scheduler that does not make one call a step, does not run
    from its first timestep on (image to image), or another thread is in the middle of one.

    >>> from diffusers import StableDiffusionPipeline
    >>> from ecdiff_core import apply_ecdiff
    >>> pipe = StableDiffusionPipeline.from_pretrained("my/cloud")  # doctest: +SKIP
    >>> edge = StableDiffusionPipeline.from_pretrained("my/edge")  # doctest: +SKIP
    >>> apply_ecdiff(pipe, "ecdiff.yaml", edge=edge)  # doctest: +SKIP
    >>> pipe("a red circle", num_inference_steps=50).images[0]  # doctest: +SKIP
    >>> print(pipe.ecdiff.summary())  # doctest: +SKIP
    50 steps = 16 cloud + 18 approximated + 16 edge (16 cloud calls, 16 edge calls)
    """
    if isinstance(pipe, nn.Module):
        name = type(pipe).__name__
        line = f"Expected a diffusers pipeline, got its {name}: give pipe itself."
        raise PairError(line, key="pipe", got=name, expected="a diffusers pipeline")
    if isinstance(config, Path | str):
        config = TunedConfig.load(config)
    if not isinstance(config, TunedConfig):
        raise ConfigError(
            f"Expected a tuned config or the path of its YAML file, got {type(config).__name__}.",
            key="config",
            got=config,
            expected="a TunedConfig or the path of its YAML file",
        )
    if config.method is not None:
        raise ConfigError(
            f"The config has method {config.method.name} beside EC-Diff's params: give it to apply_tuned, "
            "which switches both on.",
            key="method",
            got=config.method.name,
        )
    hook = ECDiffHook(pipe, config, edge, check_scheduler, check_weights)
    there = hook_on(denoiser_of(pipe))
    if there is not None and there is not getattr(pipe, "ecdiff", None):
        raise PairError(
            "ECDiff is applied to this model by way of another pipeline: call remove_ecdiff first.",
            key="pipe",
            got="hooked",
        )
    remove_ecdiff(pipe)
    with without_offload(pipe):
        put_hook(denoiser_of(pipe), hook)
    pipe.ecdiff = hook  # type: ignore[attr-defined]
    return pipe


def remove_ecdiff(pipe: Any) -> None:
    """Undo ``apply_ecdiff``, be it through this pipeline or another one that shares its denoiser.

    Does nothing where it was not applied.
    """
    hook = getattr(pipe, "ecdiff", None) or hook_on(denoiser_of(pipe))
    if hook is None:
        return
    if hook_on(hook.module) is hook:
        with without_offload(pipe):
            take_hook(hook.module)
    for owner in (pipe, hook.pipe):
        vars(owner).pop("ecdiff", None)
