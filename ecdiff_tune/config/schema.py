"""Everything that a command is told, and what follows from it.

Of a setting all is said here, in ``groups`` and in the types of their values: default, unit, limits, choices,
meaning. ``--help``, the comments of conf/ and README's table are made of it (``described``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, cast, get_args

from pydantic import Field

from ecdiff_core.config import Sampling
from ecdiff_core.models.devices import DTYPES
from ecdiff_core.models.memory import Memory, Offload
from ecdiff_core.models.pair_spec import Lora, ModelRef, On, PairSpec
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import LEAST_P, MAX_SEED, ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, count_steps
from ecdiff_core.validation import NotNegative, OneOf
from ecdiff_tune.config.command_groups import (
    AblateSettings,
    AccelerationSettings,
    CompareSettings,
    ErrorsSettings,
    ExportSettings,
    MetricsSettings,
    ParetoSettings,
    RerankSettings,
    TransferSettings,
)
from ecdiff_tune.config.groups import (
    SAME,
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    ObjectiveSettings,
    PairSettings,
    ParamsSettings,
    SamplingSettings,
    SearchSettings,
)
from ecdiff_tune.config.setting import group, setting
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.metrics.spec import MetricChoice
from ecdiff_tune.search import SEARCHES, SearchSpec
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.schedule_space import LEAST_CALLS
from ecdiff_tune.study.spec import AUTO as AUTO_REFERENCE
from ecdiff_tune.study.spec import FULL_RUNS, REFERENCES
from ecdiff_tune.study.trackers import TRACKERS

ECDIFF = "ecdiff"
"""For ``method``: what this tool tunes of itself."""


@dataclass
class Settings:
    """Everything that a command is told."""

    study: str = setting("default", "name of the study; its state lies in outputs/<pair>/<study>/")
    reference: Annotated[str, OneOf(REFERENCES)] = setting(
        AUTO_REFERENCE,
        "images that configs are held against; full: the cloud's own run on every prompt; placed: that on "
        f"the first {FULL_RUNS} and for what is reported, on the others fewer, placed calls; auto: placed "
        "where the search predicts who races",
    )
    latency: str = setting(
        "profile",
        "profile: seconds from call counts and a latency profile, measured once a study; wallclock: time "
        "each trial; or the path of a latency.json of the pair, of another study or machine",
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, mps, …; auto takes the accelerator if there is one")
    dtype: Annotated[str, OneOf(DTYPES)] = setting("float32", "precision of the models")
    batch_size: Any = setting(
        25, "prompts at a time; auto tries out how many are fastest; halved when memory runs out"
    )
    offload: Annotated[str, OneOf(get_args(Offload))] = setting(
        "none", "none; model: one model at a time on the device; sequential: one layer at a time (slow)"
    )
    vae_slicing: bool = setting(False, "decode one image of a batch at a time")
    vae_tiling: bool = setting(
        False, "decode images tile by tile, which changes them a little where tiles meet"
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = setting(
        0, "seed of the prompt sample and, prompt by prompt, of the initial noise"
    )
    sharing: Annotated[str, OneOf(("on", "off"))] = setting(
        "on", "on: trials share what their trajectories have in common; off: each runs whole"
    )
    sharing_gib: NotNegative = setting(
        4.0,
        "host memory for that, GiB, of all ranks on a machine; the rest lies in the study's folder",
    )
    tracking: Annotated[str, OneOf(TRACKERS)] = setting(
        "none", "where trials are logged as well, once it is installed"
    )
    resume: bool = setting(
        True, "go on with a study of the same settings; false sets an old one aside and starts anew"
    )
    output_dir: str = setting("outputs", "everything is written below this folder")
    pair: PairSettings = group(PairSettings, "the two models")
    method: Any = setting(
        "ecdiff", "what tune tunes: ecdiff, or accelerations of the cloud model, one or a list that competes"
    )
    params: ParamsSettings = group(ParamsSettings, "what is not searched")
    sampling: SamplingSettings = group(SamplingSettings, "of every generation")
    search: SearchSettings = group(
        SearchSettings, "how (p, k, alpha, s) are searched; of an older study its own"
    )
    calibration: CalibrationSettings = group(CalibrationSettings, "prompts that configs are scored on")
    heldout: HeldoutSettings = group(HeldoutSettings, "prompts that only the winner is measured on")
    objective: ObjectiveSettings = group(
        ObjectiveSettings,
        "what is best: eq. 12, by the paper's weights; quality_time and quality_first have no burden, "
        "offload has no time",
    )
    link: LinkSettings = group(
        LinkSettings, "between cloud and edge: the paper's 18.88 Mbps, or none for one machine"
    )
    rerank: RerankSettings = group(
        RerankSettings, "of the commands rerank and pareto, beside objective and link"
    )
    pareto: ParetoSettings = group(ParetoSettings, "which row of its table the command pareto writes as YAML")
    acceleration: AccelerationSettings = group(
        AccelerationSettings, "of tune with another method than ecdiff"
    )
    export: ExportSettings = group(ExportSettings, "of the command export")
    compare: CompareSettings = group(CompareSettings, "of the command compare")
    ablate: AblateSettings = group(AblateSettings, "of the command ablate")
    errors: ErrorsSettings = group(ErrorsSettings, "of the command errors")
    transfer: TransferSettings = group(TransferSettings, "of the command transfer")
    metrics: MetricsSettings = group(
        MetricsSettings, "what images are measured by where methods are compared; the search goes by SSIM"
    )

    @property
    def methods(self) -> tuple[str, ...]:
        """The accelerations to tune; none where it is EC-Diff."""
        named = [self.method] if isinstance(self.method, str) else list(self.method)
        return () if named == [ECDIFF] else tuple(named)

    def pair_spec(self) -> PairSpec:
        """The two models by name."""
        pair = self.pair
        variants = [pair.variant if own == SAME else own for own in (pair.cloud_variant, pair.edge_variant)]
        cloud = ModelRef(
            pair.cloud,
            pair.cloud_revision,
            variant=variants[0],
            subfolder=pair.cloud_subfolder,
            config=pair.cloud_config,
        )
        edge = ModelRef(
            pair.edge,
            pair.edge_revision,
            variant=variants[1],
            subfolder=pair.edge_subfolder,
            config=pair.edge_config,
        )
        lora = [Lora(one.path, one.weight, cast(On, one.on)) for one in pair.lora]
        return PairSpec(pair.name, cloud, edge, lora)

    def core_sampling(self) -> Sampling:
        """The sampling settings as inference knows them."""
        return Sampling(**asdict(self.sampling), dtype=self.dtype)

    def core_memory(self) -> Memory:
        """What to give up for memory."""
        return Memory(cast(Offload, self.offload), self.vae_slicing, self.vae_tiling)

    def metric_choice(self) -> MetricChoice:
        """What methods are measured by."""
        return MetricChoice(**vars(self.metrics))

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
            artifacts=search.artifacts,
            objectives=tuple(search.objectives),
            min_quality=search.min_quality,
            max_seconds=search.max_seconds,
        )
        return Options(
            tuple(search.rungs),
            search.error_rate,
            search.margin,
            search.finalists,
            search.min_quality,
            self.calibration.until,
            optuna,
        )

    @property
    def kind(self) -> SearchSpec:
        """What is true of the search."""
        return SEARCHES[self.search.name]

    @property
    def has_workers(self) -> bool:
        """Whether several processes may work on one Optuna study."""
        return self.kind.is_optuna and self.search.storage is not None

    def params_by_hand(self, p: int) -> ECDiffParams | None:
        """What stage2 is given in place of a stage 1, with s = T; None where a stage 1 goes before.

        Args:
            p: the warm-up where k is given.
        """
        given, residual = self.params, self.residuals[0]
        if given.alpha is None:
            return None
        if given.schedule is not None and given.edge_schedule is not None:
            found = ECDiffParams.interleaved(given.schedule, given.edge_schedule, given.alpha, residual)
            return replace(found, edge_k=self.edge_ks[0])
        schedule = None if given.schedule is None else tuple(given.schedule)
        return ECDiffParams(
            p if schedule is None else None,
            given.k if schedule is None else None,
            given.alpha,
            self.num_steps,
            schedule,
            edge_k=self.edge_ks[0],
            edge_first=given.edge_first,
            edge_last=given.edge_last,
            residual=residual,
        )

    @property
    def edge_ks(self) -> tuple[int, ...]:
        """The values of edge_k to search: by hand, or as set."""
        given = self.params.edge_k
        return tuple(self.search.edge_k) if given is None else (given,)

    @property
    def residuals(self) -> tuple[float, ...]:
        """The residual's factors to search: by hand, or as set."""
        given = self.params.residual
        return tuple(self.search.residual) if given is None else (given,)

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
    def handoffs(self) -> tuple[Handoff, ...]:
        """The handoffs to search, where all dimensions are at once: as set, or the one of ``sampling``."""
        return cast("tuple[Handoff, ...]", tuple(self.search.handoff or (self.sampling.handoff,)))

    @property
    def more_columns(self) -> tuple[str, ...]:
        """What trials.csv tells beyond (p, k, alpha, s) and the scores, where it has anything to tell."""
        prunes = self.kind.prunes or (self.kind.walks and self._decides_early)
        wanted = {
            "schedule": self.params.schedule is not None or self.kind.places,
            "estimator": len(self.estimators) > 1,
            "handoff_adapter": len(self.handoff_adapters) > 1,
            "handoff": len(self.handoffs) > 1,
            "crossings": bool(self.search.edge_calls),
            "edge_k": self.edge_ks != (0,),
            "residual": self.residuals != (0.0,),
            "suggested_s": self.kind.is_optuna,
            "prompts": prunes,
            "pruned": prunes,
        }
        return tuple(name for name, told in wanted.items() if told)

    @property
    def asks_edge(self) -> bool:
        """Whether the edge may take part in what is searched."""
        fills = any(get_estimator(one).fills_with_edge for one in self.estimators)
        return min(self.s_values) < self.num_steps or bool(self.search.edge_calls) or fills

    @property
    def _decides_early(self) -> bool:
        """Whether a walk may decide on fewer than all prompts."""
        options = self.search_options()
        return options.error_rate > 0 and bool(options.prompts(self.calibration.num_prompts))

    @property
    def cloud_calls(self) -> tuple[int, ...]:
        """The numbers of cloud calls to place: as set, or 0.28 T, with a wanted quality 0.16 T … 0.5 T (14,
        and 8 … 25, at T = 50)."""
        if self.search.cloud_calls is not None:
            return tuple(self.search.cloud_calls)
        shares = (0.28, 0.28) if self.search.min_quality is None else (0.16, 0.5)
        most = max(LEAST_CALLS, *self.s_values)
        first, last = (min(most, max(LEAST_CALLS, round(share * self.num_steps))) for share in shares)
        return tuple(range(first, last + 1))

    @property
    def s_values(self) -> tuple[int, ...]:
        """The values of s to search: as set, or 0.6 T … 0.8 T (the paper's 30 … 40 at T = 50), of which
        ``search=schedule`` takes the first, the middle and the last; at least what p or a schedule needs."""
        if self.search.s is not None:
            return tuple(self.search.s)
        least = min(LEAST_CALLS if self.kind.places else LEAST_P, self.num_steps)
        first, middle, last = (max(least, round(share * self.num_steps)) for share in (0.6, 0.7, 0.8))
        return (
            tuple(dict.fromkeys((first, middle, last))) if self.kind.places else tuple(range(first, last + 1))
        )
