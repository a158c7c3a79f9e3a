"""The groups of settings that one command has for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ecdiff_core.validation import AtLeast1, NotNegative, OneOf, Positive, Similarity
from ecdiff_tune.config.setting import setting
from ecdiff_tune.experiments.method_names import METHODS
from ecdiff_tune.methods.export import FORMS
from ecdiff_tune.metrics.choice import LPIPS_NETS, METRICS

NoiseShare = Annotated[float, Field(gt=0, le=1)]


@dataclass
class RerankSettings:
    """What ``rerank`` and ``pareto`` go by beside ``objective`` and ``link``."""

    latency: str | None = setting(
        None, "latency.json of a study of the same pair on another machine; null is the study's own"
    )
    min_quality: Similarity | None = setting(None, "least mean SSIM")
    max_seconds: Positive | None = setting(None, "most seconds an image, the transfer included")


@dataclass
class ParetoSettings:
    """Which row of its table ``pareto`` writes as YAML."""

    pick: str | None = setting(
        None, "a row's number, fastest_above (with quality) or best_below (with seconds)"
    )
    quality: Similarity | None = setting(None, "least mean SSIM")
    seconds: Positive | None = setting(None, "most seconds an image, the transfer included")


@dataclass
class AccelerationSettings:
    """How ``tune`` with another ``method`` than ecdiff goes about it."""

    values: Any = setting(
        None, "values of the method that are given, {threshold: 0.1}; the one searched is your present one"
    )
    min_quality: Similarity | None = setting(
        None, "least mean SSIM; null is the present setting's, else 0.95"
    )
    min_worst: Similarity | None = setting(
        None, "least SSIM of the worst prompt; null is the present setting's, else 0.8"
    )
    timed_prompts: AtLeast1 = setting(3, "images that seconds, side by side, are the median of")


@dataclass
class ExportSettings:
    """What ``export`` writes."""

    to: Annotated[str, OneOf(FORMS)] = setting(
        "diffusers",
        "diffusers: lines of Python; cache_dit: a YAML that cache-dit and what builds on it load; sglang: "
        "environment variables; vllm_omni: JSON",
    )
    config: str | None = setting(
        None, "a tuned YAML; null is the study's accelerated.yaml, else its ecdiff.yaml"
    )


@dataclass
class CompareSettings:
    """What ``compare`` holds a study's winner against."""

    methods: list[Annotated[str, OneOf(METHODS)]] | None = setting(
        None, "[cloud,hybrid_10,tuned]; null is all that apply"
    )
    schedule: str | None = setting(
        None, "another study of the pair whose winner lists its real steps, or a YAML"
    )
    timed_prompts: AtLeast1 = setting(3, "images that each method's seconds by the clock are the median of")
    seconds: Positive | None = setting(
        None, "by the clock, that an acceleration may take; null is what the tuned config takes"
    )
    time_again: bool = setting(False, "time all anew: the machine has another load than before")


@dataclass
class AblateSettings:
    """What ``ablate`` measures on."""

    num_prompts: AtLeast1 | None = setting(
        50, "the first so many held-out prompts, each of 2 T cloud calls and more; null is all"
    )


@dataclass
class ErrorsSettings:
    """What ``errors`` measures."""

    num_prompts: AtLeast1 = setting(8, "held-out prompts; where none are held out, of those tuned on")
    noise: list[NoiseShare] = setting(
        [0.005, 0.01, 0.02], "Figure 1: noise after each step, as a share of the latents' root mean square"
    )
    config: str | None = setting(None, "YAML of which errors are shown; null is the study's ecdiff.yaml")


@dataclass
class TransferSettings:
    """What ``transfer`` moves, and what it refuses."""

    config: str | None = setting(None, "YAML that was tuned at other sampling settings")
    tolerance: NotNegative = setting(
        0.01, "by how much of the objective it may be lower than the best that is predicted of the grid"
    )


@dataclass
class MetricsSettings:
    """What images are measured by where methods are compared; the search goes by SSIM alone."""

    names: list[Annotated[str, OneOf(METRICS)]] = setting(
        ["ssim", "psnr"], "ssim, psnr (dB), lpips (0 is equal), clip (100 times the cosine to the prompt)"
    )
    lpips_net: Annotated[str, OneOf(LPIPS_NETS)] = setting("alex", "network of LPIPS")
    lpips_weights: str | None = setting(
        None, "weights of that network, a file of torchvision's; null is the one in torch's own cache"
    )
    clip: str | None = setting(None, "folder of a CLIP model as transformers saves it, for the metric clip")
