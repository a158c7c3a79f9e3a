"""Very small real pairs, so that every test runs whole diffusers pipelines in a fraction of a second."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig, pipeline
from ecdiff_core.sampling import scheduler_trial
from ecdiff_core.sampling.scheduler_trial import SchedulerTrial

from . import small_sd3, small_unets, small_videos
from .loading import load_or_copy

torch.set_num_threads(1)  # faster for models this small, and results that do not depend on the machine


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[None]:
    """``ECDiffPipeline.from_config`` copies a pair that was loaded before; ``load_pair`` itself loads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pipeline._LOADERS, "both", load_or_copy)
        yield


@pytest.fixture(scope="session", autouse=True)
def tried_once() -> Iterator[None]:
    """A scheduler that got through so many steps once does so again."""
    known: dict[object, SchedulerTrial] = {}
    try_out = scheduler_trial._try

    def once(scheduler: SchedulerMixin, steps: int, set_timesteps: Callable[..., None]) -> SchedulerTrial:
        values = [(name, _exactly(value)) for name, value in sorted(vars(scheduler).items())]
        key = (type(scheduler), *values, steps, set_timesteps)
        if key not in known:
            known[key] = try_out(scheduler, steps, set_timesteps)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler_trial, "_try", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def looked_up_once() -> Iterator[None]:
    """diffusers asks at every call of an attention layer what its processor takes."""
    look_up = inspect.signature
    known = cache(look_up)

    def once(function: Any, **settings: Any) -> inspect.Signature:
        inner = getattr(function, "__func__", None)
        if settings or not isinstance(inner, FunctionType) or inner.__closure__:  # which may hold models
            return look_up(function, **settings)
        whole = known(inner)
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "signature", once)
        yield


def _exactly(value: object) -> object:
    return np.asarray(value).tobytes() if isinstance(value, torch.Tensor | np.ndarray) else repr(value)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/``, two diffusers folders of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("tiny")
    small_unets.save_tiny_pair(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/`` of SDXL, of 32x32 pixels.

    The edge is like SSD-1B: depths by layer, no attention in the mid block.
    """
    folder = tmp_path_factory.mktemp("sdxl")
    cloud = {"transformer_layers_per_block": [1, 2]}
    edge = {
        "transformer_layers_per_block": [1, [2]],
        "reverse_transformer_layers_per_block": [[1, 2], 1],
        "mid_block_type": "UNetMidBlock2D",
    }
    make = small_unets.sdxl_unet
    small_unets.save_sdxl_models(folder, {"cloud": partial(make, **cloud), "edge": partial(make, **edge)})
    return folder


@pytest.fixture(scope="session")
def sd3_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/`` of Stable Diffusion 3 with T5, of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("sd3")
    small_sd3.save_pair(folder, t5=True)
    return folder


@pytest.fixture(scope="session")
def sd3_pair_without_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with ``[null, null]`` for the third text encoder and tokenizer in both model_index.json."""
    folder = tmp_path_factory.mktemp("sd3_without_t5")
    small_sd3.save_pair(folder, t5=False)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_pair: Path) -> TunedConfig:
    """A config of the tiny pair whose plan is ``3C2A1C2A1C3E``: every action, and alpha matters."""
    return TunedConfig(
        pair=PairSpec("tiny", ModelRef(str(tiny_pair / "cloud")), ModelRef(str(tiny_pair / "edge"))),
        params=ECDiffParams(p=3, k=2, alpha=0.3, s=9),
        sampling=Sampling(num_inference_steps=12, guidance_scale=3.0),
    )


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cloud/`` and ``edge/`` after CogVideoX 5B and 2B, videos of nine 32x32 frames."""
    folder = tmp_path_factory.mktemp("videos")
    small_videos.save_pair(folder)
    return folder


@pytest.fixture(scope="session")
def video_config(tiny_videos: Path) -> TunedConfig:
    """A config of the tiny video pair whose plan is ``3C2A1C3E``."""
    return TunedConfig(
        pair=PairSpec("videos", ModelRef(str(tiny_videos / "cloud")), ModelRef(str(tiny_videos / "edge"))),
        params=ECDiffParams(p=3, k=2, alpha=0.3, s=6),
        sampling=Sampling(num_inference_steps=9, scheduler="CogVideoXDDIMScheduler", guidance_scale=3.0),
    )


@pytest.fixture(scope="session")
def sd14_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named ``sd14``, ``bk_sdm_small`` and ``bk_sdm_tiny``: the real models' blocks, narrow."""
    folder = tmp_path_factory.mktemp("sd14")
    names = ("sd14", "bk_sdm_small", "bk_sdm_tiny")
    small_unets.save_sd_models(folder, _of_real_layout(small_unets.sd_unet, names))
    return folder


@pytest.fixture(scope="session")
def sdxl_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named ``sdxl_base``, ``ssd_1b`` and ``segmind_vega``: the real models' depths, narrow."""
    folder = tmp_path_factory.mktemp("sdxl_models")
    names = ("sdxl_base", "ssd_1b", "segmind_vega")
    small_unets.save_sdxl_models(folder, _of_real_layout(small_unets.sdxl_unet, names))
    return folder


def _of_real_layout(make: Callable[..., Any], names: Sequence[str]) -> dict[str, Callable[[], Any]]:
    return {name: partial(make, **small_unets.layout(name)) for name in names}
