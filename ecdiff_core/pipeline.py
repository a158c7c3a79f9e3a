"""Inference with a tuned config, called the way a diffusers pipeline is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ecdiff_core.call_arguments import (
    Callback,
    Interrupts,
    OnStepEnd,
    OutputType,
    as_numpy,
    callback_of,
    check_call,
    counted_by,
    refuse_others,
    seeds_of,
)
from ecdiff_core.config import PairSpec, TunedConfig
from ecdiff_core.errors import NonFiniteLatentsError, ParamsError
from ecdiff_core.front import check_deadline
from ecdiff_core.methods.in_pair import accelerated, check_one_machine
from ecdiff_core.models.devices import dtype_name, get_device, get_dtype
from ecdiff_core.models.memory import Memory
from ecdiff_core.models.one_side import load_cloud, load_edge
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.output import Clock, ECDiffOutput, Seconds
from ecdiff_core.sampling.plan import Mode, Plan
from ecdiff_core.sampling.sampler import OnStep, SamplerState, advance
from ecdiff_core.tuned_pair import Prepared, TunedPair, rows_of_prompts


class Cloud(Protocol):
    """Another machine with the cloud's model (``ecdiff_core.serving.client.RemoteCloud``)."""

    def begin(
        self,
        pipe: ECDiffPipeline,
        mode: Mode,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        seeds: Sequence[int],
    ) -> Prepared:
        """The cloud's part up to the first edge step, one image for each prompt and seed."""

    def within(self, pipe: ECDiffPipeline, deadline: float) -> ECDiffPipeline:
        """The pipeline with the best config of its front of which an image takes at most so many seconds."""


_LOADERS = {"both": load_pair, "cloud": load_cloud, "edge": load_edge}


class ECDiffPipeline(TunedPair):
    """Cloud and edge model sharing one generation as a ``TunedConfig`` says.

    >>> from ecdiff_core import ECDiffPipeline
    >>> pipe = ECDiffPipeline.from_config("ecdiff.yaml")  # doctest: +SKIP
    >>> pipe("a large red circle", generator=torch.Generator().manual_seed(0)).images[0]  # doctest: +SKIP
    """

    def __init__(self, pair: Pair, config: TunedConfig | None = None, cloud: Cloud | None = None) -> None:
        super().__init__(pair, config)
        if cloud is not None:
            check_one_machine(self.config.method)
        self.cloud = cloud
        self.choice = ""
        """Which row of a front this is and why, where a deadline chose it."""
        self._interrupts = Interrupts()
        self._bar_settings: dict[str, Any] = {"disable": True}

    @classmethod
    def from_config(
        cls,
        config: TunedConfig | Path | str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        memory: Memory | None = None,
        check_weights: bool = True,
        side: Literal["both", "cloud", "edge"] = "both",
        cloud: Cloud | None = None,
        deadline: float | None = None,
    ) -> ECDiffPipeline:
        """Load the pair that a config (or the YAML file at a path) names.

        Args:
            device: where to run; None takes the accelerator if there is one.
            dtype: in place of the config's.
            memory: offload, slicing and tiling where the device's memory is short.
            check_weights: refuse weights whose fingerprint is not the config's.
            side: load one machine's models alone; of the other's, configs are enough.
            cloud: the other machine, which does the cloud's part; then ``side`` is ``edge``.
            deadline: seconds of an image; of the config's front the best is taken that keeps them with that
                machine, and ``choice`` says which and why.

        Raises:
            ConfigError, ParamsError, PairError: the config, a setting or a model is not usable, or no config
                of the front keeps the deadline.
            OutOfMemoryError: the models do not fit on the device.
        """
        if not isinstance(config, TunedConfig):
            config = TunedConfig.load(config)
        if side not in _LOADERS:
            raise ParamsError.unknown("side", side, _LOADERS)
        if cloud is not None:
            check_one_machine(config.method)
        if deadline is not None:
            check_deadline(deadline, config.front, cloud)
        if dtype is not None and dtype_name(dtype) != config.sampling.dtype:
            bare = _without(config.pair, "tensors")  # which hold for the config's dtype
            config = replace(config, pair=bare, sampling=replace(config.sampling, dtype=dtype_name(dtype)))
        spec = config.pair if check_weights else _without(config.pair, "fingerprint", "tensors")
        dtype_of_models = get_dtype(config.sampling.dtype)
        load = _LOADERS[side if cloud is None else "edge"]
        pair = load(spec, device=get_device(device), dtype=dtype_of_models, memory=memory)
        pipe = cls(pair, replace(config, pair=pair.spec), cloud)
        return pipe if deadline is None else pipe.within(deadline)

    def within(self, deadline: float) -> ECDiffPipeline:
        """The best config of the front with which an image by two machines takes at most so many seconds.

        Raises:
            ParamsError: there is none, no front, or no other machine.
        """
        return check_deadline(deadline, self.config.front, self.cloud).within(self, deadline)

    @property
    def _interrupt(self) -> bool:
        """Whether this thread's call is to end; set in a thread without one, all calls are to."""
        return self._interrupts.asked()

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._interrupts.ask(value)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        mode: Mode = "ecdiff",
        on_step: OnStep | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> ECDiffOutput:
        """Generate images, by default one a prompt. Several threads may call at once.

        Args:
            prompt: one or several.
            negative_prompt: one for all, or one a prompt.
            num_images_per_prompt: images of a prompt, which follow each other.
            generator: one, or one an image (then an image does not depend on its batch).
            output_type: of ``images``: ``pil``, ``np``, ``pt``, or ``latent`` (nothing is decoded).
            callback_on_step_end: called as diffusers does after every step, with pipeline, step, timestep and
                the latents, which it may replace; ``pipe._interrupt = True`` ends the generation there.
            callback_on_step_end_tensor_inputs: ``["latents"]``.
            mode: as tuned (``ecdiff``), or a baseline with the same settings.
            on_step: called after every step with its index, action and noise.
            return_dict: False gives the tuple ``(images,)``, as diffusers does.
            others: arguments of diffusers pipelines that the config fixes (``guidance_scale``,
                ``num_inference_steps``, ``height``, …); refused unless they are the config's.

        Raises:
            ParamsError: no prompt, another number of generators than of images, an argument that the config
                fixes otherwise, or an unknown mode, output type or argument.
            NonFiniteLatentsError: the result is not finite.
        """
        refuse_others(others, self.sampling)
        prompts: list[Any] = (
            [prompt] if isinstance(prompt, str) or not isinstance(prompt, Iterable) else list(prompt)
        )
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
        check_call(prompts, negatives, generator, num_images_per_prompt, output_type)
        for name, function in (("callback_on_step_end", callback_on_step_end), ("on_step", on_step)):
            if function is not None and not callable(function):
                raise ParamsError(key=name, got=function, expected="to be a function")
        callback = callback_of(callback_on_step_end, callback_on_step_end_tensor_inputs)
        steps = self.plan(mode)
        bar = tqdm(total=steps.num_steps, **self._bar_settings)
        turn = self.pair.family.alone if self.is_offloaded else nullcontext()
        method = self.config.method if mode == "ecdiff" else None  # a baseline has none
        guidance = self.config.sampling.guidance_scale
        on = accelerated(self.pair, method, steps.num_steps, guidance, self.scheduler)
        with bar, turn, on, self._interrupts.call():
            on_step = counted_by(bar, on_step)
            clock = Clock(self.device)
            begun = self._begin(mode, prompts, negatives, generator, num_images_per_prompt)
            bar.update(begun.start.step)
            lap = clock.lap()
            encode_seconds, before = (lap, 0.0) if self.cloud is None else (0.0, lap)
            state, spent = begun.start, {True: before, False: 0.0}
            for on_cloud, some in groupby(range(state.step, steps.num_steps), key=steps.on_cloud):
                until = max(some) + 1
                state = self._advance(state, begun, steps, until, on_step, callback)
                spent[on_cloud] += clock.lap()
            images = self._images(state.latents, output_type, steps)
            seconds = Seconds(encode_seconds, spent[True], spent[False], clock.lap())
        if not return_dict:
            return (images,)  # type: ignore[return-value]
        return ECDiffOutput(images, steps.until(state.step), seconds, state.latents)

    def _advance(
        self,
        state: SamplerState,
        begun: Prepared,
        steps: Plan,
        until: int,
        on_step: OnStep | None,
        callback: Callback | None,
    ) -> SamplerState:
        """The plan's steps up to ``until``; one by one where a callback may change the latents."""
        cloud, edge = self.bind(begun.conditioning)
        loop = (steps, begun.cloud or cloud, edge, self.estimator, self.config.factors)
        if callback is None:
            return advance(state, *loop, until=until, on_step=on_step)
        while state.step < until and not self._interrupt:
            state = callback.after_step(self, advance(state, *loop, until=state.step + 1, on_step=on_step))
        return state

    def _begin(
        self,
        mode: Mode,
        prompts: Sequence[str],
        negatives: Sequence[str] | None,
        generator: torch.Generator | list[torch.Generator] | None,
        num_images_per_prompt: int,
    ) -> Prepared:
        """What this machine goes on from: the first step, or what the other machine hands over."""
        if self.cloud is None:
            return self.prepare(
                prompts,
                negative_prompts=negatives,
                generator=generator,
                num_images_per_prompt=num_images_per_prompt,
            )
        rows = rows_of_prompts(prompts, num_images_per_prompt)
        some = None if negatives is None else [negatives[row] for row in rows]
        return self.cloud.begin(
            self, mode, [prompts[row] for row in rows], some, seeds_of(generator, len(rows))
        )

    def _images(self, latents: Tensor, output_type: OutputType, steps: Plan) -> Any:
        family = self.pair.family
        images = latents if output_type == "latent" else family.decode(latents)
        # A half-precision decoder can overflow on finite latents.
        if not (torch.isfinite(latents).all() and torch.isfinite(images).all()):
            dtype = self.config.sampling.dtype
            raise NonFiniteLatentsError(
                f"The image is not finite after {steps} in {dtype}.",
                key="dtype",
                got=dtype,
                advice="Try dtype float32, a smaller alpha or a smaller k.",
            )
        if output_type == "pil":
            return family.to_pil(images)
        return as_numpy(images) if output_type == "np" else images

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Show a bar of a generation's steps, with tqdm's settings; without this call there is none."""
        self._bar_settings = {"disable": False, **settings}

    def __repr__(self) -> str:
        sampling = self.sampling
        frames = "" if sampling.num_frames is None else f", {sampling.num_frames} frames"
        return (
            f"ECDiffPipeline({self.pair.spec.name}: {self.pair.family.pipeline_class.__name__}, "
            f"{self.plan()}, {sampling.scheduler}, guidance_scale {sampling.guidance_scale:g}, "
            f"{sampling.height}x{sampling.width}{frames}, {sampling.dtype} on {self.device})"
        )


def _without(spec: PairSpec, *digests: str) -> PairSpec:
    """The pair without what its weights would be compared by."""
    none = dict.fromkeys(digests)
    bare: dict[str, Any] = {side: replace(getattr(spec, side), **none) for side in ("cloud", "edge")}
    if "fingerprint" in digests:
        bare["lora"] = [replace(one, fingerprint=None) for one in spec.lora]
    return replace(spec, **bare)
