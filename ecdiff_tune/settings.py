"""Typed settings of every command. Hydra composes them from conf/; its DictConfig ends here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ecdiff_core.errors import ECDiffError, ParamsError, nearest
from ecdiff_core.link import Link
from ecdiff_core.memory import Memory, Offload
from ecdiff_core.noise import get_estimator
from ecdiff_core.params import LEAST_P, MAX_SEED, ECDiffParams
from ecdiff_core.plan import HandoffAdapter, count_steps, plan
from ecdiff_core.tuned_config import ModelRef, PairSpec, Sampling
from ecdiff_tune import trackers
from ecdiff_tune.evidence.names import METHODS
from ecdiff_tune.search import BY_CLOCK, SEARCHES, check_installed
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.schedule_space import LEAST_CALLS

AUTO = "auto"
"""For ``params.p`` and ``batch_size``: found from the pair."""
LATENCIES = ("profile", "wallclock")
SHARING = ("on", "off")
PICKS = {"fastest_above": "quality", "best_below": "seconds"}
"""What ``pareto.pick`` takes beside a row's number, and the limit that goes with it."""
EXTENDING = ("greedy", "exhaustive")
"""Searches that ``search.extend`` is for."""
GIVING_UP = ("race", "joint", "optuna", "schedule")
"""Searches that give candidates up after some prompts."""
LIMITING = {"min_quality": ("optuna", "schedule"), "max_seconds": ("optuna",), "cloud_calls": ("schedule",)}
"""Limits, and the searches that heed them."""
METRICS = ("ssim", "psnr", "lpips", "clip")
"""What ``metrics.names`` takes."""
LPIPS_NETS = ("alex", "vgg")
"""What ``metrics.lpips_net`` takes."""
REFERENCE_FOLDER = "reference"
"""Beside the studies of a pair: pictures that all of them share."""


class SettingsError(ECDiffError):
    """A setting is out of range, or settings contradict each other."""


@dataclass
class PairSettings:
    """conf/pair/."""

    name: str = "???"
    cloud: str = "???"
    edge: str = "???"
    cloud_revision: str | None = None
    edge_revision: str | None = None


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
    looks: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
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


@dataclass
class Settings:
    """Everything that a command is told."""

    pair: PairSettings = field(default_factory=PairSettings)
    params: ParamsSettings = field(default_factory=ParamsSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    rerank: RerankSettings = field(default_factory=RerankSettings)
    pareto: ParetoSettings = field(default_factory=ParetoSettings)
    compare: CompareSettings = field(default_factory=CompareSettings)
    ablate: AblateSettings = field(default_factory=AblateSettings)
    errors: ErrorsSettings = field(default_factory=ErrorsSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    latency: str = "profile"
    study: str = "default"
    device: str = "auto"
    dtype: str = "float32"
    batch_size: Any = 25
    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    seed: int = 0
    sharing: str = "on"
    sharing_gib: float = 4.0
    tracking: str = "none"
    resume: bool = True
    output_dir: str = "outputs"

    def pair_spec(self) -> PairSpec:
        """The two models by name."""
        pair = self.pair
        cloud, edge = ModelRef(pair.cloud, pair.cloud_revision), ModelRef(pair.edge, pair.edge_revision)
        return PairSpec(pair.name, cloud, edge)

    def core_sampling(self) -> Sampling:
        """The sampling settings as inference knows them."""
        return Sampling(**asdict(self.sampling), dtype=self.dtype)

    def core_memory(self) -> Memory:
        """What to give up for memory."""
        return Memory(cast(Offload, self.offload), self.vae_slicing, self.vae_tiling)

    def core_link(self) -> Link:
        """The link between cloud and edge."""
        return Link(**asdict(self.link))

    def search_options(self) -> Options:
        """How candidates race, and what Optuna is told."""
        search = self.search
        optuna = OptunaOptions(
            search.trials,
            search.sampler,
            search.study_name or f"{self.pair.name}/{self.study}",
            search.storage,
            objectives=tuple(search.objectives),
            min_quality=search.min_quality,
            max_seconds=search.max_seconds,
        )
        return Options(
            tuple(search.looks),
            search.error_rate,
            search.margin,
            search.finalists,
            search.min_quality,
            optuna,
        )

    @property
    def has_workers(self) -> bool:
        """Whether several processes may work on one Optuna study."""
        return self.search.name == "optuna" and self.search.storage is not None

    def params_by_hand(self, p: int) -> ECDiffParams | None:
        """What stage2 is given in place of a stage 1, with s = T; None where a stage 1 goes before.

        Args:
            p: the warm-up where k is given.
        """
        given = self.params
        if given.alpha is None:
            return None
        if given.schedule is not None:
            return ECDiffParams.scheduled(given.schedule, given.alpha, self.num_steps)
        return ECDiffParams(p, given.k, given.alpha, self.num_steps)

    @property
    def num_steps(self) -> int:
        """T."""
        return count_steps(self.sampling.scheduler, self.sampling.num_inference_steps)

    @property
    def earliest_s(self) -> int:
        """s' of eq. 11: as set, or 0.6 T (the paper's 30 at T = 50)."""
        given = self.objective.earliest_s
        return round(0.6 * self.num_steps) if given is None else given

    @property
    def estimators(self) -> tuple[str, ...]:
        """The estimators to search: as set, or the one of ``sampling``."""
        return tuple(self.search.estimator or (self.sampling.estimator,))

    @property
    def handoff_adapters(self) -> tuple[HandoffAdapter, ...]:
        """The handoff adapters to search: as set, or the one of ``sampling``."""
        return cast(
            "tuple[HandoffAdapter, ...]",
            tuple(self.search.handoff_adapter or (self.sampling.handoff_adapter,)),
        )

    @property
    def more_columns(self) -> tuple[str, ...]:
        """What trials.csv tells beyond (p, k, alpha, s) and the scores, where it has anything to tell."""
        wanted = {
            "schedule": self.params.schedule is not None or self.search.name == "schedule",
            "estimator": len(self.estimators) > 1,
            "handoff_adapter": len(self.handoff_adapters) > 1,
            "prompts": self.search.name in GIVING_UP,
            "discarded": self.search.name in GIVING_UP,
        }
        return tuple(name for name, told in wanted.items() if told)

    @property
    def cloud_calls(self) -> tuple[int, ...]:
        """The numbers of cloud calls to place: as set, or 0.28 T, with a wanted quality 0.16 T … 0.5 T (14,
        and 8 … 25, at T = 50)."""
        if self.search.cloud_calls is not None:
            return tuple(self.search.cloud_calls)
        shares = (0.28, 0.28) if self.search.min_quality is None else (0.16, 0.5)
        first, last = (max(LEAST_CALLS, round(share * self.num_steps)) for share in shares)
        return tuple(range(first, last + 1))

    @property
    def s_values(self) -> tuple[int, ...]:
        """The values of s to search: as set, or 0.6 T … 0.8 T (the paper's 30 … 40 at T = 50), of which
        ``search=schedule`` takes the first, the middle and the last."""
        if self.search.s is not None:
            return tuple(self.search.s)
        if self.search.name == "schedule":
            return tuple(dict.fromkeys(round(share * self.num_steps) for share in (0.6, 0.7, 0.8)))
        return tuple(range(round(0.6 * self.num_steps), round(0.8 * self.num_steps) + 1))


def register() -> None:
    """Make ``Settings`` the schema that conf/base.yaml starts from."""
    ConfigStore.instance().store(name="settings", node=Settings)


def from_config(config: DictConfig) -> Settings:
    """The checked settings of a composed config.

    Raises:
        SettingsError, ParamsError, ConfigError: a value is out of range.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise SettingsError(f"Missing {', '.join(missing)}: give {missing[0]}=VALUE.")
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, Settings)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    settings.core_sampling()
    settings.core_link()
    settings.core_memory()
    if settings.sharing not in SHARING:
        raise SettingsError(f"Unknown sharing {settings.sharing!r}: {nearest(settings.sharing, SHARING)}.")
    if settings.latency not in LATENCIES:
        raise SettingsError(f"Unknown latency {settings.latency!r}: {nearest(settings.latency, LATENCIES)}.")
    trackers.check(settings.tracking)
    for name, value, least in (
        ("calibration.num_prompts", settings.calibration.num_prompts, 1),
        ("heldout.num_prompts", settings.heldout.num_prompts, 0),
        ("sharing_gib", settings.sharing_gib, 0),
        ("seed", settings.seed, 0),
        ("compare.timed_prompts", settings.compare.timed_prompts, 1),
        ("ablate.num_prompts", 1 if settings.ablate.num_prompts is None else settings.ablate.num_prompts, 1),
        ("errors.num_prompts", settings.errors.num_prompts, 1),
    ):
        if value < least:
            raise SettingsError(f"Expected {name} >= {least}, got {value}.")
    size = settings.batch_size
    if size != AUTO and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise SettingsError(f"Expected batch_size >= 1 or auto, got {size}.")
    if settings.seed > MAX_SEED:
        raise SettingsError(f"Expected seed <= {MAX_SEED}, got {settings.seed}.")
    for name, folder in (("study", settings.study), ("pair.name", settings.pair.name)):
        if not folder or folder != folder.strip("./ ") or "/" in folder:
            raise SettingsError(f"Expected {name} to be a plain folder name, got {folder!r}.")
    if settings.study == REFERENCE_FOLDER:
        raise SettingsError(
            f"Expected another study than {REFERENCE_FOLDER!r}: that folder holds all references."
        )
    for name in ("w1", "w2", "w3"):
        weight = getattr(settings.objective, name)
        if not 0 <= weight < math.inf:
            raise SettingsError(f"Expected objective.{name} to be a finite number >= 0, got {weight}.")
    if settings.search.name not in SEARCHES:
        raise SettingsError(
            f"Unknown search {settings.search.name!r}: {nearest(settings.search.name, SEARCHES)}."
        )
    _check_search(settings)
    _check_params(settings)
    _check_grids(settings)
    _check_picks(settings)
    _check_methods(settings.compare)
    _check_metrics(settings.metrics)
    noise = settings.errors.noise
    if not noise or not all(0 < ratio <= 1 for ratio in noise) or len(set(noise)) < len(noise):
        raise SettingsError(f"Expected errors.noise to hold different shares, 0 < share <= 1, got {noise}.")


def _check_methods(compare: CompareSettings) -> None:
    if compare.methods is None:
        return
    for name in compare.methods:
        if name not in METHODS:
            raise SettingsError(f"Unknown method {name!r} in compare.methods: {nearest(name, METHODS)}.")
    if not compare.methods or len(set(compare.methods)) < len(compare.methods):
        raise SettingsError(f"Expected compare.methods to hold different methods, got {compare.methods}.")


def _check_metrics(metrics: MetricsSettings) -> None:
    names = metrics.names
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"Expected metrics.names to hold at least one metric, none twice, got {names}.")
    for name in names:
        if name not in METRICS:
            raise SettingsError(f"Unknown metric {name!r} in metrics.names: {nearest(name, METRICS)}.")
    if metrics.lpips_net not in LPIPS_NETS:
        raise SettingsError(
            f"Unknown metrics.lpips_net {metrics.lpips_net!r}: {nearest(metrics.lpips_net, LPIPS_NETS)}."
        )
    if "clip" in names and metrics.clip is None:
        raise SettingsError("The metric clip needs the folder of a CLIP model: give metrics.clip=FOLDER.")


def _check_picks(settings: Settings) -> None:
    """Of rerank and pareto."""
    rerank, pareto = settings.rerank, settings.pareto
    for name, quality in (("rerank.min_quality", rerank.min_quality), ("pareto.quality", pareto.quality)):
        if quality is not None and not -1 <= quality <= 1:
            raise SettingsError(f"Expected {name} to be a mean SSIM within -1 … 1, got {quality}.")
    for name, seconds in (("rerank.max_seconds", rerank.max_seconds), ("pareto.seconds", pareto.seconds)):
        if seconds is not None and not seconds > 0:
            raise SettingsError(f"Expected {name} > 0, got {seconds}.")
    if pareto.pick is None or pareto.pick.isdecimal():
        return
    if pareto.pick not in PICKS:
        raise SettingsError(
            f"Unknown pareto.pick {pareto.pick!r}: {nearest(pareto.pick, PICKS)}, or a row's number."
        )
    limit = PICKS[pareto.pick]
    if getattr(pareto, limit) is None:
        raise SettingsError(f"pareto.pick={pareto.pick} needs pareto.{limit}=VALUE.")


def _check_search(settings: Settings) -> None:
    settings.search_options()
    name, search = settings.search.name, settings.search
    check_installed(name, search.sampler)
    for limit, heeding in LIMITING.items():
        if getattr(search, limit) is not None and name not in heeding:
            raise SettingsError(
                f"search.{limit} is for search={' and search='.join(heeding)}; not for search={name}."
            )
    if settings.latency == "wallclock" and name not in BY_CLOCK:
        raise SettingsError(
            f"search={name} must know the seconds of a config before it runs, which latency=wallclock does "
            f"not: set latency=profile, or search={' or search='.join(BY_CLOCK)}."
        )
    if search.extend and name not in EXTENDING:
        raise SettingsError(
            f"search.extend is for search={' and search='.join(EXTENDING)}; not for search={name}."
        )
    places = name == "schedule"
    for setting, idle, instead in (
        ("params.p", settings.params.p != AUTO and places, "choose another search"),
        ("search.p", search.p is not None and places, "choose another search"),
        ("search.p", search.p is not None and not search.joint, "set search.joint=true"),
        ("search.storage", search.storage is not None and name != "optuna", "choose search=optuna"),
    ):
        if idle:
            raise SettingsError(f"{setting} has no effect with search={name}: leave it out, or {instead}.")
    if places:
        _check_cloud_calls(settings)
    if settings.search.joint and name == "greedy":
        raise SettingsError("search=greedy goes stage by stage: set search.joint=false, or another search.")


def _check_cloud_calls(settings: Settings) -> None:
    calls, most = settings.cloud_calls, max(settings.s_values, default=0)
    if not calls or len(set(calls)) < len(calls):
        raise SettingsError(f"Expected different search.cloud_calls, at least one, got {list(calls)}.")
    if not all(LEAST_CALLS <= one <= most for one in calls):
        raise SettingsError(
            f"Expected search.cloud_calls within {LEAST_CALLS} … {most} (the largest s), got {list(calls)}."
        )
    if settings.search.joint is False:
        raise SettingsError("search=schedule places calls and s at once: leave search.joint=true.")


def _check_params(settings: Settings) -> None:
    p, k, alpha = settings.params.p, settings.params.k, settings.params.alpha
    if p != AUTO and (isinstance(p, bool) or not isinstance(p, int) or p < 0):
        raise SettingsError(f"Expected params.p to be a whole number >= 0 or auto, got {p!r}.")
    schedule = settings.params.schedule
    if schedule is not None and (p != AUTO or k is not None):
        raise SettingsError("Expected params.p and params.k, or params.schedule in their place, got both.")
    if schedule is not None and alpha is None:
        raise SettingsError("Expected params.alpha with params.schedule: give params.alpha=0.5 or another.")
    if schedule is None and (k is None) != (alpha is None):
        raise SettingsError("Expected both params.k and params.alpha, or neither (then stage1.yaml is read).")
    if k is not None and k >= settings.num_steps:
        raise ParamsError(f"Expected params.k within 0 … {settings.num_steps - 1}, got {k}.")
    params = settings.params_by_hand(p if isinstance(p, int) else LEAST_P)
    if params is not None:
        sampling = settings.core_sampling()
        plan(params, settings.num_steps, sampling.handoff, get_estimator(sampling.estimator))


def _check_grids(settings: Settings) -> None:
    steps, search = settings.num_steps, settings.search
    for estimator in settings.estimators:
        get_estimator(estimator)
    for adapter in settings.handoff_adapters:
        replace(settings.core_sampling(), handoff_adapter=adapter)  # refuses unknown names
    for name, values in (
        ("p", [0] if search.p is None else search.p),
        ("k", search.k),
        ("alpha", search.alpha),
        ("s", settings.s_values),
        ("estimator", settings.estimators),
        ("handoff_adapter", settings.handoff_adapters),
    ):
        if not values:
            raise SettingsError(f"Expected search.{name} to hold at least one value, got none.")
        if len(set(values)) < len(values):
            raise SettingsError(f"Expected the values of search.{name} to differ, got {list(values)}.")
    if min(search.k) < 0 or max(search.k) >= steps:
        raise ParamsError(f"Expected search.k within 0 … {steps - 1}, got {search.k}.")
    if not all(0 < alpha <= 1 for alpha in search.alpha):  # also where one is nan
        raise ParamsError(f"Expected search.alpha within 0 < alpha <= 1, got {search.alpha}.")
    if min(settings.s_values) < 0 or max(settings.s_values) > steps:
        raise ParamsError(
            f"Expected search.s within 0 … {steps} (sampling.num_inference_steps), "
            f"got {list(settings.s_values)}."
        )
    if not 0 <= settings.earliest_s < steps:
        raise ParamsError(
            f"Expected objective.earliest_s within 0 … {steps - 1} (s' of eq. 11), got {settings.earliest_s}."
        )
    p = settings.params.p
    if p == AUTO and min(settings.s_values) < LEAST_P:
        raise ParamsError(
            f"Expected every s >= {LEAST_P}, the least p that params.p=auto chooses, "
            f"got s from {min(settings.s_values)}."
        )
    if isinstance(p, int) and p > min(settings.s_values):
        raise ParamsError(
            f"Expected params.p <= every s, got p={p} with s from {min(settings.s_values)}. "
            "Lower params.p or raise search.s."
        )
    if isinstance(p, int) and p < LEAST_P and max(search.k) >= 1:
        raise ParamsError(
            f"Expected params.p >= {LEAST_P} when k >= 1 is searched (eq. 3 needs two noises), got p={p}."
        )
