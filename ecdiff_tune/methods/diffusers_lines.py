"""A tuned config as lines of Python for diffusers. No weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ConfigError, PairError
from ecdiff_core.methods.choice import MethodChoice


def _first_block_cache(values: Mapping[str, Any], _: int) -> str:
    return f"FirstBlockCacheConfig(threshold={values['threshold']!r})"


def _taylorseer(values: Mapping[str, Any], _: int) -> str:
    from ecdiff_core.methods.taylorseer import MODULES

    numbers = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return (
        f"TaylorSeerCacheConfig({numbers}, cache_identifiers=[{MODULES!r}], "
        "taylor_factors_dtype=pipe.transformer.dtype)"
    )


def _mag_cache(values: Mapping[str, Any], num_steps: int) -> str:
    numbers = ", ".join(f"{name}={value!r}" for name, value in values.items() if name != "mag_ratios")
    ratios = list(values["mag_ratios"])
    return f"MagCacheConfig({numbers}, num_inference_steps={num_steps}, mag_ratios={ratios!r})"


def _pab(values: Mapping[str, Any], _: int) -> str:
    spatial, cross, low, high = values.values()
    return (
        f"PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range={spatial!r}, "
        f"cross_attention_block_skip_range={cross!r}, "
        f"spatial_attention_timestep_skip_range=({low!r}, {high!r}), "
        f"cross_attention_timestep_skip_range=({low!r}, {high!r}), "
        "current_timestep_callback=lambda: pipe.current_timestep)"
    )


_CONFIGS: Mapping[str, Callable[[Mapping[str, Any], int], str]] = {
    "first_block_cache": _first_block_cache,
    "taylorseer": _taylorseer,
    "mag_cache": _mag_cache,
    "pab": _pab,
}
"""diffusers' own config of a method with so many steps, as Python."""


def _without_enable_cache(config: TunedConfig) -> str:
    """The class of the cloud's denoiser where diffusers has no switch for caches in it; empty where it has,
    or where the model's configs cannot be had."""
    # Commands that load no model know of this module.
    from diffusers.models.cache_utils import CacheMixin

    from ecdiff_core.models.families.parts import part_class
    from ecdiff_core.models.find import find_configs
    from ecdiff_core.models.pair_files import family_of

    try:
        folder = find_configs(config.pair.cloud, tokenizers=False)
        found = part_class(folder, family_of(folder).denoiser_part)
    except (PairError, ValueError, OSError):
        return ""
    return "" if issubclass(found, CacheMixin) else found.__name__


def to_diffusers(config: TunedConfig) -> str:
    """Lines of Python that switch the config's method on in ``pipe``, a pipeline whose transformer has
    diffusers' ``enable_cache``.

    Raises:
        ConfigError: it has no method, EC-Diff's steps beside it, or one that is not switched on that way; or
            its denoiser has no ``enable_cache``.
    """
    choice: MethodChoice | None = config.method
    if choice is None or choice.name not in _CONFIGS or config.plan().cloud_calls < config.sampling.num_steps:
        got = "EC-Diff" if choice is None else choice.name
        raise ConfigError(
            f"Expected a method of {', '.join(_CONFIGS)} alone, got {got}: use apply_tuned(pipe, YAML), "
            "which runs every config in a diffusers pipeline.",
            key="method",
            got=got,
            expected=list(_CONFIGS),
        )
    if kind := _without_enable_cache(config):
        raise ConfigError(
            f"diffusers has no enable_cache for a {kind}: use apply_tuned(pipe, YAML), which needs none.",
            key="pair.cloud",
            got=kind,
            expected="CacheMixin",
        )
    made = _CONFIGS[choice.name](choice.values, config.sampling.num_steps)
    name = made.partition("(")[0]
    sampling = config.sampling
    return (
        f"# {described(config)}\n"
        f"# Tuned with num_inference_steps={sampling.num_inference_steps}, {sampling.scheduler}, "
        f"guidance_scale={sampling.guidance_scale:g}.\n"
        f"from diffusers import {name}\n\n"
        f"pipe.transformer.enable_cache({made})\n"
    )


def described(config: TunedConfig, measured_with: str = "") -> str:
    """Pair, what was tuned, and its quality, for the first line of a file."""
    quality = (config.score or {}).get("quality")
    measured = "" if quality is None else f": mean SSIM {quality:.4f} to the images without it"
    if measured and measured_with:
        measured = f"{measured}, with {measured_with}"
    what = str(config.plan()) if config.method is None else config.method.text
    return f"{config.pair.name}, {what}{measured}"
