"""A loaded pair with its config: its plan and scheduler, prompts encoded, models bound to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.device_placement import Placed
from ecdiff_core.errors import ConfigError, ParamsError
from ecdiff_core.models.families.guidance import Guidance
from ecdiff_core.models.handoff import adapt, check_adapter
from ecdiff_core.models.pair import Pair
from ecdiff_core.sampling.batching import Conditioning, take_prompts
from ecdiff_core.sampling.estimators import Estimator, get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import HandoffAdapter, Mode, Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import Denoiser, SamplerState, start
from ecdiff_core.sampling.scheduler_settings import check_settings, settings_of
from ecdiff_core.sampling.scheduler_trial import rehearse
from ecdiff_core.sampling.schedulers import build_scheduler
from ecdiff_core.sampling.timesteps import set_steps


@dataclass(frozen=True)
class Prepared:
    """What a trajectory goes on from.

    Args:
        start: the state before step 0; after another machine's part, before the first edge step.
        conditioning: the encoded prompts.
        cloud: that machine, for plans that ask for it again; None for the cloud's model here.
    """

    start: SamplerState
    conditioning: Conditioning
    cloud: Denoiser | None = None


class TunedPair(Placed):
    """All that a generation is made of.

    Raises:
        ConfigError, ParamsError: the pair cannot be used as the config says.
    """

    def __init__(self, pair: Pair, config: TunedConfig | None = None) -> None:
        if not isinstance(pair, Pair) or not isinstance(config, TunedConfig):
            raise ConfigError(
                f"Expected a loaded pair and a TunedConfig, got {type(pair).__name__} and "
                f"{type(config).__name__}.",
                key="pair and config",
                got=(type(pair).__name__, type(config).__name__),
                expected=["Pair", "TunedConfig"],
                advice="ECDiffPipeline.from_config(PATH) loads both.",
            )
        self.pair = pair
        self.config = config
        asked = config.sampling
        _check_offered(pair, asked)
        self.size = pair.family.size_of(asked.height, asked.width, asked.num_frames)
        for edge in (None, pair.edge):
            pair.family.check_size(self.size, edge)
        scheduler = build_scheduler(asked.scheduler, pair.family.scheduler)
        check_settings(scheduler, config.scheduler_config)
        self.scheduler_config = settings_of(scheduler)
        self.scheduler = pair.family.fit_scheduler(scheduler, self.size)
        rehearse(self.scheduler, asked.num_inference_steps)
        # The scale of the initial noise may depend on them.
        set_steps(self.scheduler, asked.num_inference_steps)

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
    def is_guided(self) -> bool:
        """Whether prompts are encoded with another half, without the prompt."""
        models = (self.pair.cloud, self.pair.edge)
        return self.pair.family.needs_negatives(models, self.config.sampling.guidance_scale)

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
        num_images_per_prompt: int = 1,
    ) -> Prepared:
        """Encode the prompts and draw their initial noise: all that a trajectory starts from."""
        family, steps = self.pair.family, self.config.sampling.num_inference_steps
        rows = rows_of_prompts(prompts, num_images_per_prompt)
        conditioning = self.encode(prompts, negative_prompts)
        if num_images_per_prompt > 1:
            conditioning = take_prompts(conditioning, rows)
        latents = family.initial_latents(len(rows), self.size, self.scheduler, generator)
        return Prepared(start(latents, self.scheduler, steps, family.noise_dtype), conditioning)

    def encode(self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None) -> Conditioning:
        """Encode the prompts; without them only where one of the two models asks for it."""
        family, scale = self.pair.family, self.config.sampling.guidance_scale
        with family.alone:  # tokenizers may not be used by two threads at once
            return family.encode(prompts, scale if self.is_guided else 1.0, self.size, negative_prompts)

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
        return self.bind_cloud(conditioning), edge

    def bind_cloud(self, conditioning: Conditioning) -> Denoiser:
        """The cloud model for some prompts; samples may be at different timesteps (``Family.bind``)."""
        return self.pair.family.bind(self.pair.cloud, conditioning, self.guidance)

    def check_adapter(self, handoff_adapter: HandoffAdapter) -> None:
        """Whether these models can be joined by a handoff adapter, in place of the config's.

        Raises:
            ParamsError: they cannot (``ecdiff_core.models.handoff.check_adapter``), or it is ``matched`` with
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
            raise ParamsError.unknown("mode", mode, get_args(Mode))
        return plan(baselines[mode], self.num_steps)


def rows_of_prompts(prompts: Sequence[str], num_images_per_prompt: int) -> list[int]:
    """Of each image the index of its prompt."""
    return [row for row in range(len(prompts)) for _ in range(num_images_per_prompt)]


def _check_offered(pair: Pair, asked: Sampling) -> None:
    """Raise ParamsError where a setting is asked for that these models do not have."""
    name = pair.family.pipeline_class.__name__
    if pair.family.media == "image" and asked.num_frames not in (None, 1):
        raise ParamsError(
            key="num_frames", got=asked.num_frames, expected="to be null", advice=f"{name} makes images."
        )
    if asked.use_dynamic_cfg and not pair.family.offers_dynamic_cfg:
        line = f"{name} has no use_dynamic_cfg: set it to false."
        raise ParamsError(line, key="use_dynamic_cfg", got=True, expected="false")
    check_adapter(asked.handoff_adapter, pair.cloud_schedule, pair.edge_schedule)
