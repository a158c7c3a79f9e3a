"""The groups of settings: one dataclass a folder of conf/ or a command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
"""For ``params.p``, ``batch_size`` and ``pair.variant``: found from the pair."""
SAME = "same"
"""For ``pair.cloud_variant`` and ``pair.edge_variant``: what ``pair.variant`` says."""


@dataclass
class LoraSettings:
    """An adapter of ``pair.lora``."""

    path: str = "???"
    weight: float = 1.0
    on: str = "both"


@dataclass
class PairSettings:
    """conf/pair/."""

    name: str = "???"
    cloud: str = "???"
    edge: str = "???"
    cloud_revision: str | None = None
    edge_revision: str | None = None
    variant: str | None = AUTO
    cloud_variant: str | None = SAME
    edge_variant: str | None = SAME
    cloud_subfolder: str | None = None
    edge_subfolder: str | None = None
    cloud_config: str | None = None
    edge_config: str | None = None
    lora: list[LoraSettings] = field(default_factory=list)


@dataclass
class ParamsSettings:
    """What is not searched: p always, the rest when stage2 gets it by hand."""

    p: Any = AUTO
    k: int | None = None
    alpha: float | None = None
    schedule: list[int] | None = None


@dataclass
class SamplingSettings:
    """ecdiff_core.Sampling without the dtype."""

    num_inference_steps: int = 50
    scheduler: str = "DDIMScheduler"
    guidance_scale: float = 7.5
    use_dynamic_cfg: bool = False
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    handoff: str = "aligned"
    handoff_adapter: str = "identity"
    estimator: str = "gradient"


@dataclass
class SearchSettings:
    """conf/search/."""

    name: str = "???"
    k: list[int] = field(default_factory=list)
    alpha: list[float] = field(default_factory=list)
    s: list[int] | None = None
    estimator: list[str] | None = None
    handoff_adapter: list[str] | None = None
    joint: bool = False
    p: list[int] | None = None
    extend: bool = False
    rungs: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
    error_rate: float = 0.05
    margin: float = 0.0
    finalists: int = 8
    sampler: str = "tpe"
    trials: int = 50
    study_name: str | None = None
    storage: str | None = None
    artifacts: str | None = None
    warm_start: bool = True
    objectives: list[str] = field(default_factory=lambda: ["objective"])
    min_quality: float | None = None
    max_seconds: float | None = None
    cloud_calls: list[int] | None = None


@dataclass
class CalibrationSettings:
    """conf/calibration/."""

    num_prompts: int = 100
    file: str | None = None
    column: str | None = None


@dataclass
class HeldoutSettings:
    """Prompts that only the winner is measured on."""

    num_prompts: int = 50


@dataclass
class ObjectiveSettings:
    """conf/objective/."""

    w1: float = 0.3
    w2: float = 0.3
    w3: float = 0.4
    earliest_s: int | None = None


@dataclass
class LinkSettings:
    """conf/link/."""

    mbps: float | None = None
    round_trip_seconds: float = 0.0


@dataclass
class RerankSettings:
    """What ``rerank`` and ``pareto`` go by beside ``objective`` and ``link``."""

    latency: str | None = None
    min_quality: float | None = None
    max_seconds: float | None = None


@dataclass
class ParetoSettings:
    """Which row of its table ``pareto`` writes as YAML."""

    pick: str | None = None
    quality: float | None = None
    seconds: float | None = None


@dataclass
class CompareSettings:
    """What ``compare`` holds a study's winner against."""

    methods: list[str] | None = None
    schedule: str | None = None
    timed_prompts: int = 3


@dataclass
class AblateSettings:
    """What ``ablate`` measures on."""

    num_prompts: int | None = 50


@dataclass
class ErrorsSettings:
    """What ``errors`` measures."""

    num_prompts: int = 8
    noise: list[float] = field(default_factory=lambda: [0.005, 0.01, 0.02])
    config: str | None = None


@dataclass
class MetricsSettings:
    """What pictures are measured by where methods are compared; the search goes by SSIM alone."""

    names: list[str] = field(default_factory=lambda: ["ssim", "psnr"])
    lpips_net: str = "alex"
    lpips_weights: str | None = None
    clip: str | None = None
