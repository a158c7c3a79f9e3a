"""The groups of settings: one dataclass a folder of conf/ or a part of conf/base.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field

from ecdiff_core.models.pair_spec import On
from ecdiff_core.sampling.estimators import ESTIMATORS
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_core.validation import AtLeast0, AtLeast1, Finite, NotNegative, OneOf, Positive, Similarity
from ecdiff_tune.config.setting import setting
from ecdiff_tune.objective import BurdenOf
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.options import OBJECTIVES, SAMPLERS, ErrorRate, Rung

AUTO = "auto"
"""For ``params.p``, ``batch_size`` and ``pair.variant``: found from the pair."""
SAME = "same"
"""For ``pair.cloud_variant`` and ``pair.edge_variant``: what ``pair.variant`` says."""
Estimator = Annotated[str, OneOf(ESTIMATORS)]
Adapter = Annotated[str, OneOf(get_args(HandoffAdapter))]


@dataclass
class LoraSettings:
    """An adapter of ``pair.lora``."""

    path: str = setting("???", "safetensors file, or folder with pytorch_lora_weights.safetensors")
    weight: Finite = setting(1.0, "factor of the adapter; 0 switches it off")
    on: Annotated[str, OneOf(get_args(On))] = setting("both", "which models it is loaded on")


@dataclass
class PairSettings:
    """conf/pair/."""

    name: str = setting("???", "names the folder in outputs/")
    cloud: str = setting("???", "hub id, diffusers folder, .safetensors checkpoint, or embedded:NAME")
    edge: str = setting("???", "the same; its denoiser is enough (unet/, transformer/, or the folder of one)")
    cloud_revision: str | None = setting(None, "revision of the hub repository; null is its newest")
    edge_revision: str | None = setting(None, "revision of the hub repository; null is its newest")
    variant: str | None = setting(
        AUTO, "variant of the weight files: fp16, null (plain ones), or auto (what is there)"
    )
    cloud_variant: str | None = setting(SAME, "same: as pair.variant; else the cloud's own")
    edge_variant: str | None = setting(SAME, "same: as pair.variant; else the edge's own")
    cloud_subfolder: str | None = setting(None, "where in the hub repository or folder the cloud lies")
    edge_subfolder: str | None = setting(None, "where in the hub repository or folder the edge lies")
    cloud_config: str | None = setting(
        None, "config files of a checkpoint: hub id or folder with them; null is diffusers' choice"
    )
    edge_config: str | None = setting(None, "the same for the edge")
    lora: list[LoraSettings] = setting(
        [], "adapters: [{path: style.safetensors, weight: 0.8, on: cloud}]; on is cloud, edge or both"
    )


@dataclass
class ParamsSettings:
    """What is not searched: p always, the rest when stage2 gets it by hand."""

    p: Any = setting(
        AUTO,
        "warm-up steps with real cloud calls; auto: until the noise's change has fallen by three quarters",
    )
    k: int | None = setting(None, "stage2 without a stage 1: approximated steps between two real calls")
    alpha: float | None = setting(
        None, "stage2 without a stage 1: factor of the noise gradient, 0 < alpha <= 1"
    )
    schedule: list[int] | None = setting(
        None, "stage2 without a stage 1: steps with real cloud calls, [0,1,2,4,7], in place of p and k"
    )
    edge_k: AtLeast0 | None = setting(
        None, "stage2: approximated steps between two real edge calls, in place of search.edge_k"
    )
    residual: Annotated[float, Field(ge=0, le=1)] | None = setting(
        None, "stage2: factor of cloud minus edge added to the edge's noise, in place of search.residual"
    )
    edge_first: AtLeast1 = setting(2, "edge steps at the beginning that stay real whatever edge_k is")
    edge_last: AtLeast0 = setting(2, "edge steps at the end that stay real whatever edge_k is")
    edge_schedule: list[int] | None = setting(
        None,
        "stage2 with params.schedule: steps with real edge calls, [8,12,20], in any order with the cloud's",
    )


@dataclass
class SamplingSettings:
    """ecdiff_core.Sampling without the dtype."""

    num_inference_steps: AtLeast1 = setting(
        50, "T; PNDMScheduler makes one step more, which p, k and s count"
    )
    scheduler: str = setting("DDIMScheduler", "a deterministic diffusers scheduler class")
    guidance_scale: NotNegative = setting(7.5, "classifier-free guidance; 1 is none")
    use_dynamic_cfg: bool = setting(False, "CogVideoX: whether the guidance scale varies with the timestep")
    height: int | None = setting(None, "pixels; null is the model's own size")
    width: int | None = setting(None, "pixels; null is the model's own size")
    num_frames: int | None = setting(None, "frames of a video; null is the model's own number")
    handoff: Annotated[str, OneOf(get_args(Handoff))] = setting(
        "aligned", "aligned: after a correcting call (Algorithm 1) or a listed step; exact: cut at s"
    )
    handoff_adapter: Adapter = setting(
        "identity", "what the edge is given of the cloud's latents: identity, or matched (equal SNR)"
    )
    estimator: Estimator = setting(
        "gradient", "noise of an approximated step: gradient (eq. 3-6), reuse, secant, newton2, edge"
    )


@dataclass
class SearchSettings:
    """conf/search/."""

    name: Annotated[str, OneOf(SEARCHES)] = setting("???", "what search=NAME chooses")
    k: list[int] = setting([1, 2, 3, 4, 5], "approximated steps between two real calls")
    alpha: list[float] = setting(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], "factor of the noise gradient, 0 < alpha <= 1"
    )
    s: list[int] | None = setting(
        None,
        "steps on the cloud side; null is 0.6 T … 0.8 T, of which schedule takes three; [T] is cloud only",
    )
    estimator: list[Estimator] | None = setting(
        None, "noise of approximated steps, [gradient,secant] compares both; null is sampling's own"
    )
    handoff_adapter: list[Adapter] | None = setting(
        None, "[identity,matched] compares both in stage 2; null is sampling's own"
    )
    handoff: list[Annotated[str, OneOf(get_args(Handoff))]] | None = setting(
        None, "with joint: [aligned,exact] compares both; null is sampling's own"
    )
    edge_k: list[AtLeast0] = setting([0], "approximated steps between two real edge calls; 0 is none")
    residual: list[Annotated[float, Field(ge=0, le=1)]] = setting(
        [0.0], "factor of cloud minus edge at the last cloud step, added to the edge's noise; 0 is the paper"
    )
    joint: bool = setting(False, "tune: true searches (p, k, alpha, s) at once, false stage by stage")
    p: list[int] | None = setting(None, "with joint: warm-up steps, 2 … s, [3,5]; null is params.p")
    extend: bool = setting(
        False, "greedy, exhaustive: search on where the winner lies on the boundary of its grid"
    )
    rungs: list[Rung] = setting(
        [0.05, 0.1, 0.25, 0.5], "shares of the prompts after which losers are pruned, rising"
    )
    error_rate: ErrorRate = setting(
        0.05, "greatest probability of a wrong decision; 0: upper bounds alone decide, greedy walks whole"
    )
    margin: NotNegative = setting(0.0005, "objective that may be given away at a rung, to end sooner")
    finalists: AtLeast1 = setting(8, "how many of the best predicted configs race")
    front: AtLeast0 = setting(
        6,
        "predict, joint, schedule: configs of other seconds and cloud calls, the best predicted, that are "
        "measured on five prompts for pareto and the page; 0 is none",
    )
    sampler: Annotated[str, OneOf(SAMPLERS)] = setting("tpe", "Optuna's sampler")
    trials: AtLeast1 = setting(50, "trials of the Optuna study; more of them go on with it")
    study_name: str | None = setting(None, "name in the storage; null is <pair>/<study>")
    storage: str | None = setting(
        None, "database URL or journal file of an Optuna study; null: the study's folder"
    )
    artifacts: str | None = setting(None, "folder of the trials' images; null: beside the journal")
    warm_start: bool = setting(True, "whether Optuna begins with the paper's Table 5 row")
    objectives: list[Annotated[str, OneOf(OBJECTIVES)]] = setting(["objective"], "what Optuna optimises")
    min_quality: Similarity | None = setting(None, "least mean SSIM that the winner must have")
    max_seconds: Positive | None = setting(None, "most seconds an image that the winner may take")
    edge_calls: list[AtLeast1] | None = setting(
        None,
        "schedule: numbers of edge calls, [8], to place as well, with a residual at least 2; null: each step "
        "after s is one",
    )
    crossings: int | None = setting(
        1,
        "schedule, with edge_calls: 1: the cloud comes first, then the edge; null: they take turns",
    )
    cloud_calls: list[int] | None = setting(
        None, "schedule: numbers of cloud calls, [14]; null is 0.28 T, with min_quality 0.16 T … 0.5 T"
    )


@dataclass
class CalibrationSettings:
    """conf/calibration/."""

    num_prompts: AtLeast1 = setting(100, "prompts to tune on")
    file: str | None = setting(
        None,
        "txt (one a line), csv, tsv, json, jsonl or parquet; null draws from the embedded pair's grammar",
    )
    column: str | None = setting(None, 'column of a table; null takes "prompt", "caption" or "text"')
    until: Positive | None = setting(
        None,
        "tune with search=joint, schedule: end after a rung (search.rungs) where no other config can be "
        "better by so much of the objective, 0.001; null measures the winner on all prompts",
    )


@dataclass
class HeldoutSettings:
    """Prompts that only the winner is measured on."""

    num_prompts: AtLeast0 = setting(50, "prompts that only the winner is measured on; 0 leaves that out")
    fewer_steps: AtLeast0 = setting(
        16,
        "on how many of them the cloud alone runs too, with as many steps as take the winner's time; 0: none",
    )


@dataclass
class ObjectiveSettings:
    """conf/objective/."""

    w1: NotNegative = setting(0.3, "weight of quality: SSIM to the cloud's images")
    w2: NotNegative = setting(
        0.3, "weight of efficiency: share of the time between cloud and edge that is saved"
    )
    w3: NotNegative = setting(0.4, "weight of burden: (T - s) / (T - s'), 1 where the edge takes over at s'")
    burden: Annotated[str, OneOf(get_args(BurdenOf))] = setting(
        "steps", "what burden is: steps (eq. 11), or cloud_calls: 1 - cloud calls / T"
    )
    earliest_s: int | None = setting(None, "s' of eq. 11, steps; null is 0.6 T (the paper's 30 at T = 50)")


@dataclass
class LinkSettings:
    """conf/link/."""

    mbps: Positive | None = setting(None, "10^6 bits a second; null is one machine, where nothing is sent")
    round_trip_seconds: NotNegative = setting(
        0.0, "seconds there and back, for the handoff and for each later cloud call"
    )
    url: str | None = setting(
        None, "server of ecdiff serve, http://gpu:8000: link and cloud's seconds are measured there"
    )
    token_file: str | None = setting(None, "file with its token; null is ECDIFF_TOKEN's, if any")
