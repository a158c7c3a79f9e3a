"""The edge model inside another model's diffusers pipeline: whether it can be there, and how it is called."""

from __future__ import annotations

from inspect import Signature
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device, unwrap_module
from torch import Tensor, nn

from ecdiff_core.errors import ConfigError, PairError
from ecdiff_core.handoff import NoiseSchedule, adapt, check_adapter
from ecdiff_core.hook.checks import denoiser_of, forward_signature, hook_on
from ecdiff_core.hook.history import unwrap
from ecdiff_core.plan import HandoffAdapter

_ONLY_IF = {"image_rotary_emb": "use_rotary_positional_embeddings", "guidance": "guidance_embeds"}
"""Arguments that a model must not be given unless its config has that key set."""


class EdgeModel:
    """Called in place of the cloud model, with the arguments that the cloud's pipeline gives.

    Args:
        pipe: the cloud's pipeline.
        edge: a diffusers pipeline or, for the adapter ``identity``, its denoiser alone.
        adapter: what the edge model is told of latents and timestep (``ecdiff_core.handoff``). A matched
            answer is a linear function of the edge's own, so converting it before guidance, branch by branch,
            is converting it after.

    Raises:
        PairError: the edge model does not fit.
        ConfigError: the adapter is ``matched``, and only the pipeline would tell the edge's noise schedule.
        ParamsError: the adapter is ``matched``, for flow matching.
    """

    def __init__(self, pipe: Any, edge: Any, adapter: HandoffAdapter) -> None:
        self.module = denoiser_of(edge)
        self._pipe, self._adapter = pipe, adapter
        self._signature: Signature = forward_signature(pipe)
        self._schedules: tuple[NoiseSchedule | None, NoiseSchedule | None] = (None, None)
        cloud = denoiser_of(pipe)
        check_edge(cloud, self.module)
        if adapter == "matched":
            if edge is self.module:
                raise ConfigError(
                    "handoff_adapter=matched needs the edge's noise schedule: give apply_ecdiff the edge's "
                    "diffusers pipeline, not its denoiser alone."
                )
            _check_input_is_latents(cloud)
            self._schedules = (schedule_of(pipe), schedule_of(edge))
            check_adapter(adapter, *self._schedules)

    def begin(self, cloud: nn.Module) -> None:
        """Before a generation: look at what may have changed since the last one.

        Raises:
            PairError: the edge model is on another device, in another dtype, or hooked by now.
        """
        check_not_hooked(self.module)
        check_place(cloud, self.module)
        if self._adapter == "matched":
            self._schedules = (schedule_of(self._pipe), self._schedules[1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments and the kind of output are the cloud model's."""
        kwargs = arguments_for(self.module, kwargs)
        if self._adapter == "identity":
            return self.module(*args, **kwargs)
        names, given = (
            list(self._signature.parameters),
            self._signature.bind_partial(*args, **kwargs).arguments,
        )
        sample, told = given[names[0]], torch.as_tensor(given["timestep"])
        outputs = []

        def call(latents: Tensor, timestep: Tensor) -> Tensor:
            own = {names[0]: latents.to(sample.dtype), "timestep": timestep.expand(told.shape)}
            by_place = [own.get(name, value) for name, value in zip(names, args, strict=False)]
            by_name = {name: own.get(name, value) for name, value in kwargs.items()}
            outputs.append(unwrap(self.module(*by_place, **by_name)))
            return outputs[0][0].float()

        answer = adapt(call, self._adapter, *self._schedules)(sample.float(), told.max())
        tensor, wrap = outputs[0]
        return wrap(answer.to(tensor.dtype))


def schedule_of(pipe: Any) -> NoiseSchedule | None:
    """How the noisy latents of a diffusers pipeline are made; None for flow matching.

    Raises:
        PairError: the pipeline has no scheduler or no autoencoder.
    """
    scheduler, vae = getattr(pipe, "scheduler", None), getattr(pipe, "vae", None)
    if scheduler is None or vae is None:
        raise PairError(
            f"handoff_adapter=matched needs scheduler and autoencoder of the {type(pipe).__name__}: "
            "it lacks one of them."
        )
    return NoiseSchedule.of(scheduler, vae.config.get("scaling_factor", 1.0))


def _check_input_is_latents(cloud: nn.Module) -> None:
    config = getattr(cloud, "config", {})
    given, answered = config.get("in_channels"), config.get("out_channels")
    if given != answered:
        raise PairError(
            "handoff_adapter=matched rescales the model's input, which must be latents alone: expected as "
            f"many in_channels as out_channels, got {given} and {answered}. Use handoff_adapter=identity."
        )


def check_edge(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model that cannot stand in for the cloud model.

    Raises:
        PairError: it is the cloud model itself, hooked too, or built for other latents or embeddings.
    """
    if unwrap_module(edge) is unwrap_module(cloud):
        raise PairError("The edge model is the pipeline's own denoiser: give apply_ecdiff another one.")
    check_not_hooked(edge)
    ours, theirs = getattr(cloud, "config", {}), getattr(edge, "config", {})
    for key in ("in_channels", "out_channels"):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise PairError(
                f"The edge does not fit the cloud: {key} is {theirs[key]}, the cloud's {ours[key]}."
            )
    rotary = _ONLY_IF["image_rotary_emb"]
    if theirs.get(rotary) and not ours.get(rotary):
        raise PairError(
            "The edge needs rotary embeddings, which a pipeline for this cloud model does not make."
        )


def check_not_hooked(edge: nn.Module) -> None:
    """Refuse an edge model that would itself be shared.

    Raises:
        PairError: ``apply_ecdiff`` was called on its pipeline.
    """
    if hook_on(edge) is not None:
        raise PairError("ECDiff is applied to the edge model's pipeline: call remove_ecdiff on it first.")


def check_place(cloud: nn.Module, edge: nn.Module) -> None:
    """Refuse an edge model on another device or in another dtype; offloaded ones count as where they compute.

    Raises:
        PairError: it is.
    """
    here, there = get_module_execution_device(cloud), get_module_execution_device(edge)
    if (here.type, here.index or 0) != (there.type, there.index or 0):
        raise PairError(f"The edge model is on {there}, the cloud on {here}: call edge.to({str(here)!r}).")
    ours, theirs = getattr(cloud, "dtype", None), getattr(edge, "dtype", None)
    if None not in (ours, theirs) and ours != theirs:
        raise PairError(f"The edge model is in {theirs}, the cloud in {ours}: call edge.to({ours}).")


def arguments_for(edge: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The cloud's arguments without those that the edge would misread (rotary embeddings, CogVideoX 2B)."""
    config = getattr(edge, "config", {})
    unread = [name for name, key in _ONLY_IF.items() if name in kwargs and not config.get(key, True)]
    return {**kwargs, **dict.fromkeys(unread)}
