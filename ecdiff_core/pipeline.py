"""Inference with a tuned config, called the way a diffusers pipeline is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ecdiff_core.devices import dtype_name, get_device, get_dtype
from ecdiff_core.errors import NonFiniteLatentsError, ParamsError, nearest
from ecdiff_core.families.base import Conditioning, Guidance, Size
from ecdiff_core.handoff import adapt, check_adapter
from ecdiff_core.memory import Memory
from ecdiff_core.noise import Estimator, get_estimator
from ecdiff_core.output import Clock, ECDiffOutput, Seconds
from ecdiff_core.pair import Pair, load_pair
from ecdiff_core.params import ECDiffParams
from ecdiff_core.plan import HandoffAdapter, Mode, Plan, plan
from ecdiff_core.sampler import Denoiser, OnStep, SamplerState, advance, start
from ecdiff_core.schedulers import build_scheduler, rehearse, set_steps
from ecdiff_core.tuned_config import ModelRef, PairSpec, Sampling, TunedConfig


@dataclass(frozen=True)
class Prepared:
    """Encoded prompts, and the state before step 0."""

    start: SamplerState
    conditioning: Conditioning


class ECDiffPipeline:
    """Cloud and edge model sharing one generation as a ``TunedConfig`` says.

    >>> from ecdiff_core import ECDiffPipeline
    >>> pipe = ECDiffPipeline.from_config("ecdiff.yaml")  # doctest: +SKIP
    >>> pipe("a large red circle", generator=torch.Generator().manual_seed(0)).images[0]  # doctest: +SKIP
    """

    def __init__(self, pair: Pair, config: TunedConfig) -> None:
        self.pair = pair
        self.config = config
        asked, own = config.sampling, pair.family.default_size
        _check_offered(pair, asked)
        self.size = Size(
            own.height if asked.height is None else asked.height,
            own.width if asked.width is None else asked.width,
            own.num_frames if asked.num_frames is None else asked.num_frames,
        )
        pair.family.check_size(self.size)
        scheduler = build_scheduler(asked.scheduler, pair.family.scheduler)
        self.scheduler = pair.family.fit_scheduler(scheduler, self.size)
        rehearse(self.scheduler, asked.num_inference_steps)
        # The scale of the initial noise may depend on them.
        set_steps(self.scheduler, asked.num_inference_steps)

    @classmethod
    def from_config(
        cls,
        config: TunedConfig | Path | str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        memory: Memory | None = None,
        check_weights: bool = True,
    ) -> ECDiffPipeline:
        """Load the pair that a config (or the YAML file at a path) names.

        Args:
            device: where to run; None takes the accelerator if there is one.
            dtype: in place of the config's.
            memory: offload, slicing and tiling where the device's memory is short.
            check_weights: refuse weights whose fingerprint is not the config's.

        Raises:
            ConfigError, ParamsError, PairError: the config, a setting or a model is not usable.
            OutOfMemoryError: the models do not fit on the device.
        """
        if not isinstance(config, TunedConfig):
            config = TunedConfig.load(config)
        if dtype is not None:
            config = replace(config, sampling=replace(config.sampling, dtype=dtype_name(dtype)))
        spec = config.pair if check_weights else _without_fingerprints(config.pair)
        dtype_of_models = get_dtype(config.sampling.dtype)
        pair = load_pair(spec, device=get_device(device), dtype=dtype_of_models, memory=memory)
        return cls(pair, replace(config, pair=pair.spec))

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.pair.family.device

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.sampling.num_steps

    @property
    def sampling(self) -> Sampling:
        """The config's sampling settings, with the model's own size where they leave it open."""
        frames = self.size.num_frames if self.pair.family.media == "video" else None
        height, width = self.size.height, self.size.width
        return replace(self.config.sampling, height=height, width=width, num_frames=frames)

    @property
    def guidance(self) -> Guidance:
        """Classifier-free guidance."""
        sampling = self.config.sampling
        steps = sampling.num_inference_steps if sampling.use_dynamic_cfg else None
        return Guidance(sampling.guidance_scale, steps)

    @property
    def estimator(self) -> Estimator:
        """How approximated steps get their noise."""
        return get_estimator(self.config.sampling.estimator)

    def prepare(
        self,
        prompts: Sequence[str],
        *,
        negative_prompts: Sequence[str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Prepared:
        """Encode the prompts and draw their initial noise: all that a trajectory starts from."""
        family, guidance = self.pair.family, self.config.sampling.guidance_scale
        conditioning = family.encode(prompts, guidance, self.size, negative_prompts)
        latents = family.initial_latents(len(prompts), self.size, self.scheduler, generator)
        return Prepared(
            start(latents, self.scheduler, self.config.sampling.num_inference_steps), conditioning
        )

    def bind(
        self, conditioning: Conditioning, handoff_adapter: HandoffAdapter | None = None
    ) -> tuple[Denoiser, Denoiser]:
        """Cloud and edge model for some prompts.

        Args:
            conditioning: of the prompts, as ``prepare`` makes it.
            handoff_adapter: in place of the config's.

        Raises:
            ParamsError: as ``check_adapter``.
        """
        guidance, pair = self.guidance, self.pair
        adapter = handoff_adapter or self.config.sampling.handoff_adapter
        self.check_adapter(adapter)
        edge = adapt(
            pair.family.bind(pair.edge, conditioning, guidance),
            adapter,
            pair.cloud_schedule,
            pair.edge_schedule,
        )
        return pair.family.bind(pair.cloud, conditioning, guidance), edge

    def check_adapter(self, handoff_adapter: HandoffAdapter) -> None:
        """Whether these models can be joined by a handoff adapter, in place of the config's.

        Raises:
            ParamsError: they cannot (``ecdiff_core.handoff.check_adapter``), or it is ``matched`` with
                ``use_dynamic_cfg``.
        """
        replace(self.config.sampling, handoff_adapter=handoff_adapter)  # refuses what settings alone tell
        check_adapter(handoff_adapter, self.pair.cloud_schedule, self.pair.edge_schedule)

    def plan(self, mode: Mode = "ecdiff") -> Plan:
        """What every step does in a mode: as tuned, or one of the baselines.

        Raises:
            ParamsError: the mode is unknown.
        """
        tuned = self.config.plan()
        if mode == "ecdiff":
            return tuned
        baselines = {
            "hybrid": ECDiffParams.hybrid(tuned.handoff_step),
            "cloud": ECDiffParams.cloud_only(self.num_steps),
            "edge": ECDiffParams.edge_only(),
        }
        if mode not in baselines:
            raise ParamsError(f"Unknown mode {mode!r}: {nearest(str(mode), get_args(Mode))}.")
        return plan(baselines[mode], self.num_steps)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        mode: Mode = "ecdiff",
        on_step: OnStep | None = None,
    ) -> ECDiffOutput:
        """Generate one picture a prompt.

        Args:
            prompt: one or several.
            negative_prompt: one for all, or one a prompt.
            generator: one, or one a prompt (then a picture does not depend on its batch).
            mode: as tuned (``ecdiff``), or a baseline with the same settings.
            on_step: called after every step with its index, action and noise.

        Raises:
            ParamsError: no prompt, another number of generators than of prompts, or an unknown mode.
            NonFiniteLatentsError: the result is not finite.
        """
        several = isinstance(prompt, Sequence) and not isinstance(prompt, str)
        prompts: list[Any] = list(prompt) if several else [prompt]
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
        _check_call(prompts, negatives, generator)
        steps, family = self.plan(mode), self.pair.family
        clock = Clock(self.device)
        begun = self.prepare(prompts, negative_prompts=negatives, generator=generator)
        encode_seconds = clock.lap()
        loop = (steps, *self.bind(begun.conditioning), self.estimator, self.config.params.alpha)
        state = advance(begun.start, *loop, until=steps.handoff_step, on_step=on_step)
        cloud_seconds = clock.lap()
        state = advance(state, *loop, on_step=on_step)
        edge_seconds = clock.lap()

        pictures = family.decode(state.latents)
        # A half-precision decoder can overflow on finite latents.
        if not (torch.isfinite(state.latents).all() and torch.isfinite(pictures).all()):
            raise NonFiniteLatentsError(
                f"The picture is not finite after {steps} in {self.config.sampling.dtype}. "
                "Try dtype float32, a smaller alpha or a smaller k."
            )
        seconds = Seconds(encode_seconds, cloud_seconds, edge_seconds, clock.lap())
        return ECDiffOutput(family.to_pil(pictures), steps, seconds, state.latents)


def _check_offered(pair: Pair, asked: Sampling) -> None:
    """Raise ParamsError where a setting is asked for that these models do not have."""
    name = pair.family.pipeline_class.__name__
    if pair.family.media == "image" and asked.num_frames not in (None, 1):
        raise ParamsError(f"Expected num_frames to be null, got {asked.num_frames}: {name} makes pictures.")
    if asked.use_dynamic_cfg and not pair.family.offers_dynamic_cfg:
        raise ParamsError(f"{name} has no use_dynamic_cfg: set it to false.")
    check_adapter(asked.handoff_adapter, pair.cloud_schedule, pair.edge_schedule)


def _without_fingerprints(spec: PairSpec) -> PairSpec:
    def bare(ref: ModelRef) -> ModelRef:
        return replace(ref, fingerprint=None)

    return replace(spec, cloud=bare(spec.cloud), edge=bare(spec.edge))


def _check_call(prompts: list[Any], negatives: Sequence[str] | None, generator: object) -> None:
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ParamsError("Expected a prompt or a list of at least one prompt.")
    if negatives is not None and len(negatives) != len(prompts):
        raise ParamsError(f"Expected one negative prompt or {len(prompts)}, got {len(negatives)}.")
    if isinstance(generator, list) and len(generator) != len(prompts):
        raise ParamsError(f"Expected one generator or {len(prompts)}, got {len(generator)}.")
