"""The edge model inside another model's diffusers pipeline, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Signature
from typing import Any

import torch
from torch import Tensor, nn

from ecdiff_core.errors import ConfigError, PairError
from ecdiff_core.hook.checks import denoiser_of, forward_signature
from ecdiff_core.hook.distilled import call_distilled, check_guidance
from ecdiff_core.hook.fit import (
    ONLY_IF,
    check_added,
    check_edge,
    check_not_hooked,
    check_place,
    check_positions,
    check_residuals,
)
from ecdiff_core.hook.history import unwrap
from ecdiff_core.models.families.guidance import embedding_width
from ecdiff_core.models.handoff import NoiseSchedule, adapt, check_adapter
from ecdiff_core.sampling.plan import HandoffAdapter


class EdgeModel:
    """Called in place of the cloud model, with the arguments that the cloud's pipeline gives.

    Args:
        pipe: the cloud's pipeline.
        edge: a diffusers pipeline or, for the adapter ``identity``, its denoiser alone.
        adapter: what the edge model is told of latents and timestep (``ecdiff_core.models.handoff``). A
            matched answer is a linear function of the edge's own, so converting it before guidance, branch by
            branch, is converting it after.
        guidance_scale: the config's, where the pipeline does not tell its own.

    Raises:
        PairError: the edge model does not fit.
        ConfigError: the adapter is ``matched``, and only the pipeline would tell the edge's noise schedule.
        ParamsError: the adapter is ``matched``, for flow matching, or ``identity``, for an edge pipeline
            whose scheduler has another prediction type or number of training timesteps.
    """

    def __init__(
        self,
        pipe: Any,
        edge: Any,
        adapter: HandoffAdapter,
        guidance_scale: float = 1.0,
    ) -> None:
        self.module = denoiser_of(edge)
        self._pipe, self._adapter, self._scale = pipe, adapter, guidance_scale
        self._signature: Signature = forward_signature(pipe)
        self._schedules: tuple[NoiseSchedule | None, NoiseSchedule | None] = (None, None)
        cloud = denoiser_of(pipe)
        check_edge(cloud, self.module)
        check_guidance(cloud, self.module, guidance_scale)
        if adapter == "identity":
            _check_identity(pipe, edge)
        else:
            if edge is self.module:
                raise ConfigError(
                    "handoff_adapter=matched needs the edge's noise schedule: give apply_ecdiff the edge's "
                    "diffusers pipeline, not its denoiser alone.",
                    key="edge",
                    got=type(edge).__name__,
                    expected="a diffusers pipeline",
                )
            _check_input_is_latents(cloud)
            self._schedules = (schedule_of(pipe), schedule_of(edge))
            check_adapter(adapter, *self._schedules)

    def begin(self, cloud: nn.Module, given: Mapping[str, Any]) -> None:
        """Before a generation: look at what may have changed since the last one.

        Args:
            cloud: the cloud's denoiser.
            given: what the pipeline calls it with, by name.

        Raises:
            PairError: the edge model is on another device, in another dtype, or hooked by now, or the
                pipeline gives what it cannot take, or too large an image.
        """
        check_not_hooked(self.module)
        check_place(cloud, self.module)
        check_guidance(cloud, self.module, self._guidance_scale)
        check_residuals(cloud, self.module, given)
        check_added(cloud, self.module, given)
        check_positions(self.module, given)
        if self._adapter == "matched":
            self._schedules = (schedule_of(self._pipe), self._schedules[1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments and the kind of output are the cloud model's."""
        kwargs = arguments_for(self.module, kwargs)
        if self._adapter == "identity":
            return self._call(*args, **kwargs)
        names, given = (
            list(self._signature.parameters),
            self._signature.bind_partial(*args, **kwargs).arguments,
        )
        sample, timesteps = given[names[0]], torch.as_tensor(given["timestep"])
        outputs = []

        def call(latents: Tensor, timestep: Tensor) -> Tensor:
            own = {names[0]: latents.to(sample.dtype), "timestep": timestep.expand(timesteps.shape)}
            by_place = [own.get(name, value) for name, value in zip(names, args, strict=False)]
            by_name = {name: own.get(name, value) for name, value in kwargs.items()}
            outputs.append(unwrap(self._call(*by_place, **by_name)))
            return outputs[0][0].float()

        answer = adapt(call, self._adapter, *self._schedules)(sample.float(), timesteps.max())
        tensor, wrap = outputs[0]
        return wrap(answer.to(tensor.dtype))

    @property
    def _guidance_scale(self) -> float:
        """That of the generation under way."""
        return float(getattr(self._pipe, "guidance_scale", self._scale))

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """The edge model in the cloud's place, guidance given to it in its own way."""
        width = embedding_width(self.module)
        if width is None:  # a distilled cloud's pipeline embeds its scale; without guidance it is left out
            return self.module(*args, **{k: v for k, v in kwargs.items() if k != "timestep_cond"})
        given = self._signature.bind_partial(*args, **kwargs).arguments
        both = getattr(self._pipe, "do_classifier_free_guidance", self._guidance_scale > 1)
        return call_distilled(self.module, given, width, self._guidance_scale, both=both)


def schedule_of(pipe: Any) -> NoiseSchedule | None:
    """How the noisy latents of a diffusers pipeline are made; None for flow matching.

    Raises:
        PairError: the pipeline has no scheduler or no autoencoder.
    """
    scheduler, vae = getattr(pipe, "scheduler", None), getattr(pipe, "vae", None)
    if scheduler is None or vae is None:
        name = type(pipe).__name__
        raise PairError(
            f"handoff_adapter=matched needs scheduler and autoencoder of the {name}: it lacks one of them.",
            key="handoff_adapter",
            got=name,
            expected=["scheduler", "vae"],
        )
    return NoiseSchedule.of(scheduler, vae.config.get("scaling_factor", 1.0))


def _check_identity(pipe: Any, edge: Any) -> None:
    """Refuse ``identity`` where the edge's own scheduler tells that the edge answers in other terms."""
    schedulers = [getattr(holder, "scheduler", None) for holder in (pipe, edge)]
    if None not in schedulers:
        check_adapter("identity", *(NoiseSchedule.of(scheduler, 1.0) for scheduler in schedulers))


def _check_input_is_latents(cloud: nn.Module) -> None:
    config = getattr(cloud, "config", {})
    given, answered = config.get("in_channels"), config.get("out_channels")
    if given != answered:
        raise PairError(
            "handoff_adapter=matched rescales the model's input, which must be latents alone: expected as "
            f"many in_channels as out_channels, got {given} and {answered}.",
            key="handoff_adapter",
            got={"in_channels": given, "out_channels": answered},
            expected="identity",
            advice="Use handoff_adapter=identity.",
        )


def arguments_for(edge: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The cloud's arguments without those that the edge would misread (rotary embeddings, CogVideoX 2B)."""
    config = getattr(edge, "config", {})
    unread = [name for name, key in ONLY_IF.items() if name in kwargs and not config.get(key, True)]
    return {**kwargs, **dict.fromkeys(unread)}
