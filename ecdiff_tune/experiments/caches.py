"""Caches inside the cloud model, as diffusers offers them for its transformers, and DeepCache for U-Nets.

They reuse features between the steps of one generation, so that each generation gets a cache of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ecdiff_core.pipeline import ECDiffPipeline

Timestep = Callable[[], float]
"""The one that the model was called with last."""


@dataclass(frozen=True)
class Cache:
    """One way to cache.

    Args:
        label: its name.
        settings: that it runs with, those of its authors or of diffusers.
        config: of diffusers' class names; None for DeepCache.
        one_by_one: whether what it does with a picture depends on the others of its batch.
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    one_by_one: bool = False

    @property
    def told(self) -> str:
        """Name and settings, which the ledger keeps its measurements under."""
        return " ".join([self.label, *(f"{name}={value}" for name, value in self.settings.items())])


CACHES = {
    "taylorseer": Cache(
        "TaylorSeer",
        {"cache_interval": 5, "disable_cache_before_step": 3, "max_order": 1},
        "TaylorSeerCacheConfig",
    ),
    "first_block_cache": Cache(
        "FirstBlockCache", {"threshold": 0.05}, "FirstBlockCacheConfig", one_by_one=True
    ),
    "faster_cache": Cache(
        "FasterCache",
        {"spatial_attention_block_skip_range": 2, "unconditional_batch_skip_range": 5},
        "FasterCacheConfig",
    ),
    "pab": Cache(
        "PAB",
        {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (100, 800)},
        "PyramidAttentionBroadcastConfig",
    ),
    "deepcache": Cache("DeepCache", {"cache_interval": 3, "cache_branch_id": 0}),
}
"""By the names of methods."""

_ATTENTION_AND_FEED_FORWARD = r"(single_)?transformer_blocks\.\d+\.(attn\d?|ff|ff_context)"
"""TaylorSeer's modules; of itself diffusers finds those alone whose name ends with ``attn``."""


def why_not(name: str, model: nn.Module) -> str | None:
    """Why a cache cannot be put into a model; None where it can."""
    kind = type(model).__name__
    if CACHES[name].config is not None:
        return None if hasattr(model, "enable_cache") else f"diffusers has no cache for {kind}"
    if kind != "UNet2DConditionModel":
        return f"it is for U-Nets, not for {kind}"
    if getattr(model, "mid_block", None) is None:
        return "it wants a U-Net with a middle block"
    return None if find_spec("DeepCache") else "it is not installed (pip install DeepCache)"


def cached(name: str, pipe: ECDiffPipeline) -> AbstractContextManager[None]:
    """A cache in the cloud model of a pipeline during one generation."""
    return _deep(CACHES[name], pipe) if CACHES[name].config is None else _in_transformer(CACHES[name], pipe)


@contextmanager
def _in_transformer(cache: Cache, pipe: ECDiffPipeline) -> Iterator[None]:
    model: Any = pipe.pair.cloud
    with _listening(model) as timestep:
        model.enable_cache(_config(cache, pipe, timestep))
        try:
            with model.cache_context("cond_uncond"):  # both halves of guidance in one call
                yield
        finally:
            model.disable_cache()


@contextmanager
def _listening(model: nn.Module) -> Iterator[Timestep]:
    """Hear a model's timesteps, which some caches go by."""
    heard: list[Tensor] = []

    def listen(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        heard[:] = [named["timestep"] if "timestep" in named else arguments[1]]

    hook = model.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield lambda: float(heard[0].max())
    finally:
        hook.remove()


def _config(cache: Cache, pipe: ECDiffPipeline, timestep: Timestep) -> Any:
    import diffusers

    more: dict[str, Any] = {}
    if cache.config == "TaylorSeerCacheConfig":
        dtype = next(pipe.pair.cloud.parameters()).dtype
        more = {"cache_identifiers": [_ATTENTION_AND_FEED_FORWARD], "taylor_factors_dtype": dtype}
    if cache.config in ("FasterCacheConfig", "PyramidAttentionBroadcastConfig"):
        more = {"current_timestep_callback": timestep}
    if cache.config == "FasterCacheConfig":
        more |= {
            "tensor_format": "BFCHW" if pipe.pair.family.media == "video" else "BCHW",
            "is_guidance_distilled": pipe.guidance.scale <= 1,  # then there is no second half to skip
            "attention_weight_callback": lambda _: 0.5,
        }
    return getattr(diffusers, str(cache.config))(**cache.settings, **more)


@contextmanager
def _deep(cache: Cache, pipe: ECDiffPipeline) -> Iterator[None]:
    from DeepCache import DeepCacheSDHelper

    # All that it reads of a pipeline: it finds the step of a call by the scheduler's timesteps.
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=pipe.pair.cloud, scheduler=pipe.scheduler))
    helper.set_params(**cache.settings)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
