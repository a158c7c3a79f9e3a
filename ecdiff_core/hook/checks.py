"""What ``apply_ecdiff`` must know of a pipeline and its scheduler; refusals."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ecdiff_core.config import Sampling
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.methods.model_hooks import ECDIFF
from ecdiff_core.models.answers import Answer, check_answers
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.families.family import Size
from ecdiff_core.sampling.scheduler_settings import check_settings, differences
from ecdiff_core.sampling.scheduler_trial import refuse_stochastic
from ecdiff_core.sampling.timesteps import check_own_timesteps

HOOK_NAME = ECDIFF
"""In the denoiser's HookRegistry."""


def denoiser_of(holder: Any) -> nn.Module:
    """The denoiser of a diffusers pipeline; a module is one itself.

    Raises:
        PairError: there is none.
    """
    if isinstance(holder, str | Path):
        raise PairError(
            f"Expected a diffusers pipeline or its denoiser, got the path {str(holder)!r}: load it first, "
            f"DiffusionPipeline.from_pretrained({str(holder)!r}).",
            key="pipe",
            got=str(holder),
            expected="a diffusers pipeline or its denoiser",
        )
    parts = [holder, getattr(holder, "unet", None), getattr(holder, "transformer", None)]
    found = [part for part in parts if isinstance(part, nn.Module)]
    if not found:
        name = type(holder).__name__
        line = f"{name} has neither unet nor transformer: give a diffusers pipeline."
        raise PairError(line, key="pipe", got=name, expected=["unet", "transformer"])
    return found[0]


_REGISTRY = "_diffusers_hook"
"""Where diffusers keeps a model's HookRegistry."""


def hook_on(model: nn.Module) -> Any:
    """The hook that ``apply_ecdiff`` put on a model, before or after it was compiled; None without one."""
    for module in (model, unwrap_module(model)):
        registry = vars(module).get(_REGISTRY)
        if registry is not None and HOOK_NAME in registry.hooks:
            return registry.hooks[HOOK_NAME]
    return None


def put_hook(model: nn.Module, hook: ModelHook) -> None:
    """Register the hook on the model itself.

    ``torch.compile(model)`` hands attributes through to the model inside. Its registry, of which diffusers
    leaves an empty one behind (``disable_cache``), would put the hook inside the graph.
    """
    vars(model).setdefault(_REGISTRY, HookRegistry(model)).register_hook(hook, HOOK_NAME)


def take_hook(model: nn.Module) -> None:
    """Undo ``put_hook``."""
    registry = vars(model)[_REGISTRY]
    registry.remove_hook(HOOK_NAME, recurse=False)
    if not registry.hooks:  # an empty registry would put later hooks inside torch.compile
        del vars(model)[_REGISTRY]


def forward_signature(pipe: Any) -> inspect.Signature:
    """What the denoiser of a pipeline is called with.

    Raises:
        PairError: no timestep, or the pipeline has a second denoiser for some of the steps (Wan 2.2).
    """
    if getattr(pipe, "transformer_2", None) is not None:
        line = "The pipeline has two denoisers, transformer and transformer_2: one was expected."
        raise PairError(line, key="transformer_2", expected="none")
    model = unwrap_module(denoiser_of(pipe))
    signature = inspect.signature(model.forward)
    if "timestep" not in signature.parameters:
        name = type(model).__name__
        line = f"{name} is no denoiser: its forward takes no timestep."
        raise PairError(line, key="pipe", got=name, expected="timestep")
    return signature


def refuse_other_scheduler(scheduler: Any, expected: str, settings: Mapping[str, Any] | None = None) -> None:
    """Refuse another scheduler than ``expected``, one with other settings, or one that draws fresh noise.

    Args:
        settings: a config's ``scheduler_config``; None compares the class alone.

    Raises:
        ParamsError: it is one.
    """
    name = type(scheduler).__name__
    if name != expected:
        raise ParamsError(
            f"Expected the pipeline's scheduler to be {expected}, as the config was tuned with, got {name}.",
            key="scheduler",
            got=name,
            expected=expected,
            advice=f"Set pipe.scheduler = {expected}.from_config(pipe.scheduler.config), or "
            "check_scheduler=False.",
        )
    changes = ", ".join(
        f"{key}={then!r}" for key, (_, then) in differences(scheduler, settings or {}).items()
    )
    check_settings(
        scheduler,
        settings,
        f"Set pipe.scheduler = {name}.from_config(pipe.scheduler.config, {changes}), "
        "or check_scheduler=False.",
    )
    refuse_stochastic(scheduler)


def check_answers_of(pipe: Any) -> None:
    """``check_answers`` of a pipeline in memory; what other denoisers than U-Nets answer is not known.

    Raises:
        PairError: its scheduler is one for other models.
    """
    family = FAMILIES.get(type(pipe).__name__)
    by_unet: Answer | None = "noise" if hasattr(pipe, "unet") else None  # ControlNet's, inpainting's, …
    vae = getattr(getattr(pipe, "vae", None), "config", {})
    check_answers(pipe.scheduler, by_unet if family is None else family.answers, vae)


def check_size(pipe: Any, sample: Any, sampling: Sampling) -> None:
    """Refuse latents of another size than a config's, where it names one and the latents show theirs.

    Args:
        sample: what the denoiser is given, (batch, …, height, width); packed latents (Flux) have no size.

    Raises:
        ParamsError: they are.
    """
    factor = getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_scale_factor", None)
    if factor is None or sample.ndim < 4:
        return
    got = {"height": sample.shape[-2] * factor, "width": sample.shape[-1] * factor}
    every = getattr(pipe, "vae_scale_factor_temporal", None)
    if sample.ndim == 5 and every is not None and sampling.num_frames is not None:
        patch = getattr(denoiser_of(pipe), "config", {}).get("patch_size_t")
        latent_frames = (sampling.num_frames - 1) // every + (1 if patch is None else 2)
        if latent_frames not in sample.shape[1:3]:  # CogVideoX has frames before channels, others after
            got["num_frames"] = 0
    wrong = [name for name, pixels in got.items() if getattr(sampling, name) not in (None, pixels)]
    if wrong:
        asked = ", ".join(f"{name}={getattr(sampling, name)}" for name in wrong)
        shape = "x".join(str(length) for length in sample.shape[1:])
        raise ParamsError(
            f"Expected the call to have {asked}, which the config was tuned for, got latents of {shape} "
            f"(height {got['height']}, width {got['width']}).",
            key=" and ".join(wrong),
            got={name: got[name] for name in wrong},
            expected=asked,
            advice=f"Pass {asked}, or set it to null in the config.",
        )


def check_timesteps(pipe: Any, sample: Any, num_inference_steps: int) -> None:
    """Refuse a call with timesteps or sigmas of its own.

    Those of flow matching depend on what its pipelines hand over: of other classes than ``FAMILIES`` has they
    are taken as they are.

    Args:
        sample: what the denoiser is given, (batch, …, height, width).

    Raises:
        ParamsError: it has.
    """
    scheduler, family = pipe.scheduler, FAMILIES.get(type(pipe).__name__)
    if hasattr(scheduler, "alphas_cumprod"):
        check_own_timesteps(scheduler, scheduler, num_inference_steps)
    elif family is not None:
        height, width = (length * pipe.vae_scale_factor for length in sample.shape[-2:])
        like = family(pipe).fit_scheduler(scheduler, Size(height, width))
        check_own_timesteps(scheduler, like, num_inference_steps)


@contextmanager
def without_offload(pipe: Any) -> Iterator[None]:
    """The pipeline without accelerate's offload, which is put back around whatever was hooked meanwhile.

    Offload replaces ``forward`` anew after every call and would drop a hook that was put around it.
    """
    offloaded = any(hasattr(part, "_hf_hook") for part in pipe.components.values())
    if not offloaded or pipe.hf_device_map is not None:
        yield
        return
    whole_models = bool(getattr(pipe, "_all_hooks", None))
    again = pipe.enable_model_cpu_offload if whole_models else pipe.enable_sequential_cpu_offload
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        again(device=pipe._offload_device)
