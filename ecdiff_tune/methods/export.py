"""A tuned config in the words of other tools. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import yaml

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ConfigError
from ecdiff_core.methods.masks import POLICIES, mask_of, presets
from ecdiff_core.methods.method import shown
from ecdiff_core.sampling.plan import Action
from ecdiff_tune.methods.diffusers_lines import described, to_diffusers

CACHE_DIT = ("first_block_cache", "dbcache", "step_mask")
"""Methods that cache-dit has."""


def mask_in(config: TunedConfig) -> tuple[int, ...]:
    """Which steps a config has computed (1) and reused (0); empty where it says nothing of steps.

    Raises:
        ConfigError: it says so twice.
    """
    plan, method = config.plan(), config.method
    masked = method is not None and method.name == "step_mask"
    if masked and plan.approximated:
        line = "The config has EC-Diff's steps and a mask of steps: give one of them."
        raise ConfigError(line, key="method", got="step_mask")
    if masked and method is not None:
        return mask_of(method.values, config.sampling.num_steps)
    return tuple(int(action is Action.CLOUD) for action in plan.steps) if plan.approximated else ()


def _cache_config(config: TunedConfig) -> dict[str, Any]:
    """The config in the names of cache-dit.

    Raises:
        ConfigError: it has steps of the edge model, or a method that cache-dit does not have.
    """
    plan, method, mask = config.plan(), config.method, mask_in(config)
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
    if method is not None and method.name not in CACHE_DIT:
        raise ConfigError(
            f"cache-dit has nothing that does what {method.name} does: export to=diffusers, or use "
            "apply_tuned.",
            key="method",
            got=method.name,
            expected=list(CACHE_DIT),
        )
    if method is not None and method.name == "first_block_cache":
        found["residual_diff_threshold"] = method.values["threshold"]
    if method is not None and method.name == "dbcache":
        values = dict(method.values)
        calibrator, order = values.pop("calibrator"), values.pop("taylorseer_order")
        found |= values
        if calibrator != "none":
            found |= {f"enable_{calibrator}": True, f"enable_encoder_{calibrator}": False}
        if calibrator == "taylorseer":
            found["taylorseer_order"] = order
    if mask:
        found |= {"steps_computation_mask": list(mask), "steps_computation_policy": "static"}
    elif method is None:
        line = "Every step is computed: there is nothing to export."
        raise ConfigError(line, key="k", got=0)
    return found


def to_cache_dit(config: TunedConfig) -> str:
    """YAML as ``cache_dit.load_configs`` reads it, and through it SGLang, TensorRT-LLM and xDiT.

    The cloud's real and approximated steps become a computation mask with the static policy: the same steps
    are computed, and what is reused is cache-dit's residual, not EC-Diff's noise. FirstBlockCache is DBCache
    with one block.

    Raises:
        ConfigError: the config has steps of the edge model, or a method that cache-dit does not have.
    """
    found = {"cache_config": _cache_config(config)}
    text = yaml.safe_dump(found, sort_keys=False, width=10_000, default_flow_style=None)
    return f"# {described(config, measured_with(config))}\n{text}"


def measured_with(config: TunedConfig) -> str:
    """What a config's score was measured with, where cache-dit may do something else; empty where it does the
    same."""
    if config.plan().approximated:
        return "EC-Diff's noise"
    # On SD3 cache-dit computes the last block too.
    by_diffusers = config.method is not None and config.method.name == "first_block_cache"
    return "diffusers' FirstBlockCache" if by_diffusers else ""


def to_measure(config: TunedConfig) -> str:
    """A line on what was measured in place of what cache-dit makes of a config, and how to measure that.

    Empty where it is the same.

    >>> from ecdiff_core import ECDiffParams, MethodChoice, ModelRef, PairSpec, Sampling
    >>> pair, alone = PairSpec("mine", ModelRef("a"), ModelRef("b")), ECDiffParams(2, 1, 0.3, 4)
    >>> to_measure(TunedConfig(pair, alone, Sampling(num_inference_steps=4))).partition("command: ")[2]
    "method=step_mask 'acceleration.values={mask: [1, 1, 0, 1]}'"
    """
    method, by = config.method, measured_with(config)
    if not by:
        return ""
    if config.plan().approximated:
        said = f"measured was {by}, reused is cache-dit's residual"
        if method is not None:
            return f"{said}; no command measures a mask together with {method.name}"
        mask = ", ".join(map(str, mask_in(config)))
        overrides = f"method=step_mask 'acceleration.values={{mask: [{mask}]}}'"
    else:
        assert method is not None
        said = f"measured was {by}, whose images on SD3 are others than cache-dit's"
        threshold = method.values["threshold"]
        values = f"{{residual_diff_threshold: {threshold}, max_warmup_steps: 0, calibrator: none}}"
        overrides = f"method=dbcache 'acceleration.values={values}'"
    return f"{said}: to measure those, add to the study's tune command: {overrides}"


def _without_calibrators(found: Mapping[str, Any], tool: str) -> None:
    """Refuse what only cache-dit itself can be told."""
    for calibrator in ("foca", "dmd"):
        if found.get(f"enable_{calibrator}"):
            raise ConfigError(
                f"{tool} has no calibrator {calibrator}: export to=cache_dit.",
                key="method.values.calibrator",
                got=calibrator,
                expected=["none", "taylorseer"],
            )


def to_sglang(config: TunedConfig) -> str:
    """Environment variables of SGLang's own models; its diffusers backend reads cache-dit's YAML.

    Raises:
        ConfigError: as for ``to_cache_dit``; or SGLang has no variable for a value.
    """
    found = _cache_config(config)
    _without_calibrators(found, "SGLang")
    if found.get("max_cached_steps", -1) != -1 or found.get("taylorseer_order", 1) > 2:
        raise ConfigError(
            "SGLang has no variable for max_cached_steps, and orders 1 and 2 of taylorseer_order: export "
            "to=cache_dit for its diffusers backend.",
            key="method.values",
            got={name: found.get(name) for name in ("max_cached_steps", "taylorseer_order")},
        )
    lines = {
        "ENABLED": "true",
        "FN": found["Fn_compute_blocks"],
        "BN": found["Bn_compute_blocks"],
        "WARMUP": found["max_warmup_steps"],
        "RDT": found.get("residual_diff_threshold", 0.0),
        "MC": found.get("max_continuous_cached_steps", -1),
        "TAYLORSEER": str("enable_taylorseer" in found).lower(),
        "TS_ORDER": found.get("taylorseer_order", 1),
    }
    if mask := found.get("steps_computation_mask"):
        bins = [(computed, len(list(run))) for computed, run in groupby(mask)]
        for name, wanted in (("COMPUTE", 1), ("CACHE", 0)):
            lines[f"SCM_{name}_BINS"] = ",".join(str(size) for computed, size in bins if computed == wanted)
        lines["SCM_POLICY"] = "static"
    text = "".join(f"SGLANG_CACHE_DIT_{name}={value}\n" for name, value in lines.items())
    what = described(config, measured_with(config))
    return f"# {what}\n# For num_inference_steps={found['num_inference_steps']}\n{text}"


def to_vllm_omni(config: TunedConfig) -> str:
    """JSON of what vLLM-Omni takes as ``cache_config`` beside ``cache_backend="cache_dit"``.

    Raises:
        ConfigError: as for ``to_cache_dit``; or the mask is none of cache-dit's own, which are all that
            vLLM-Omni can be told.
    """
    found = _cache_config(config)
    _without_calibrators(found, "vLLM-Omni")
    steps, mask = found.pop("num_inference_steps"), found.pop("steps_computation_mask", None)
    policy = found.pop("steps_computation_policy", "dynamic")
    own = {name: list(values["mask"]) for name, values in presets(steps).items()}
    names = [name for name, preset in own.items() if preset == mask]
    if mask and find_spec("cache_dit") is None:
        raise ConfigError(
            "vLLM-Omni takes cache-dit's own masks alone, and cache-dit is not installed to compare with.",
            key="mask",
            got=shown(mask),
            advice="pip install cache-dit, or export to=cache_dit or sglang.",
        )
    if mask and not names:
        raise ConfigError(
            f"vLLM-Omni takes cache-dit's own masks alone ({', '.join(POLICIES)}), and {shown(mask)} is none "
            f"of them at {steps} steps: tune method=dbcache, or export to=cache_dit or sglang.",
            key="mask",
            got=shown(mask),
            expected=list(own),
        )
    text = {
        # its own defaults skip three calls in a row at most
        "max_continuous_cached_steps": -1,
        "residual_diff_threshold": 0.0,
        "enable_taylorseer": False,
        **{name: value for name, value in found.items() if not name.startswith("enable_encoder")},
        "scm_steps_mask_policy": names[0] if names else None,
        "scm_steps_policy": policy,
    }
    return json.dumps(text, indent=2) + "\n"


FORMS: Mapping[str, tuple[str, Callable[[TunedConfig], str]]] = {
    "cache_dit": ("cache_dit.yaml", to_cache_dit),
    "diffusers": ("enable.py", to_diffusers),
    "sglang": ("sglang.env", to_sglang),
    "vllm_omni": ("vllm_omni.json", to_vllm_omni),
}
"""By what ``export to=`` takes: name of the file, and what makes it."""
