"""A tuned config in the words of other tools. Pure text: no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ConfigError
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.sampling.plan import Action


def to_cache_dit(config: TunedConfig) -> str:
    """YAML as ``cache_dit.load_configs`` reads it, and through it SGLang, vLLM-Omni, TensorRT-LLM and xDiT.

    The cloud's real and approximated steps become a computation mask with the static policy: the same steps
    are computed, and what is reused is cache-dit's residual, not EC-Diff's noise. FirstBlockCache is DBCache
    with one block.

    Raises:
        ConfigError: the config has steps of the edge model, or a method that cache-dit does not have.
    """
    plan = config.plan()
    if plan.edge_calls:
        raise ConfigError(
            f"cache-dit runs one model, and the plan has edge steps ({plan}): export a config of the cloud "
            "alone, of tune with search.s=[T] or method=NAME.",
            key="s",
            got=plan.edge_calls,
            expected="0",
        )
    found: dict[str, Any] = {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 0,
        "num_inference_steps": config.sampling.num_steps,
    }
    if config.method is not None and config.method.name != "first_block_cache":
        name = config.method.name
        raise ConfigError(
            f"cache-dit has nothing that does what {name} does: export to=diffusers, or use apply_tuned.",
            key="method",
            got=name,
            expected=["first_block_cache"],
        )
    if config.method is not None:
        found["residual_diff_threshold"] = config.method.values["threshold"]
    if plan.approximated:
        mask = [int(action is Action.CLOUD) for action in plan.steps]
        found |= {"steps_computation_mask": mask, "steps_computation_policy": "static"}
    elif config.method is None:
        line = "Every step is computed: there is nothing to export."
        raise ConfigError(line, key="k", got=0)
    text = yaml.safe_dump({"cache_config": found}, sort_keys=False, width=10_000, default_flow_style=None)
    return f"# {_what(config)}\n{text}"


def _first_block_cache(values: Mapping[str, Any]) -> str:
    return f"FirstBlockCacheConfig(threshold={values['threshold']!r})"


def _taylorseer(values: Mapping[str, Any]) -> str:
    from ecdiff_core.methods.taylorseer import MODULES

    numbers = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return (
        f"TaylorSeerCacheConfig({numbers}, cache_identifiers=[{MODULES!r}], "
        "taylor_factors_dtype=pipe.transformer.dtype)"
    )


def _mag_cache(values: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name}={value!r}" for name, value in values.items() if name != "mag_ratios")
    ratios = list(values["mag_ratios"])
    return f"MagCacheConfig({numbers}, num_inference_steps={len(ratios)}, mag_ratios={ratios!r})"


def _pab(values: Mapping[str, Any]) -> str:
    spatial, cross, low, high = values.values()
    return (
        f"PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range={spatial!r}, "
        f"cross_attention_block_skip_range={cross!r}, "
        f"spatial_attention_timestep_skip_range=({low!r}, {high!r}), "
        f"cross_attention_timestep_skip_range=({low!r}, {high!r}), "
        "current_timestep_callback=lambda: pipe.current_timestep)"
    )


_CONFIGS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "first_block_cache": _first_block_cache,
    "taylorseer": _taylorseer,
    "mag_cache": _mag_cache,
    "pab": _pab,
}
"""diffusers' own config of a method, as Python."""


def to_diffusers(config: TunedConfig) -> str:
    """Lines of Python that switch the config's method on in ``pipe``, a pipeline whose transformer has
    diffusers' ``enable_cache``.

    Raises:
        ConfigError: it has no method, EC-Diff's steps beside it, or one that is not switched on that way.
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
    made = _CONFIGS[choice.name](choice.values)
    name = made.partition("(")[0]
    sampling = config.sampling
    return (
        f"# {_what(config)}\n"
        f"# Tuned with num_inference_steps={sampling.num_inference_steps}, {sampling.scheduler}, "
        f"guidance_scale={sampling.guidance_scale:g}.\n"
        f"from diffusers import {name}\n\n"
        f"pipe.transformer.enable_cache({made})\n"
    )


def _what(config: TunedConfig) -> str:
    quality = (config.score or {}).get("quality")
    measured = "" if quality is None else f": mean SSIM {quality:.4f} to the images without it"
    what = str(config.plan()) if config.method is None else config.method.text
    return f"{config.pair.name}, {what}{measured}"


FORMS: Mapping[str, tuple[str, Callable[[TunedConfig], str]]] = {
    "cache_dit": ("cache_dit.yaml", to_cache_dit),
    "diffusers": ("enable.py", to_diffusers),
}
"""By what ``export to=`` takes: name of the file, and what makes it."""
