"""The settings of a command, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from ecdiff_core.config import Sampling
from ecdiff_core.models.memory import Memory, Offload
from ecdiff_core.models.pair_spec import Lora, ModelRef, On, PairSpec
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import LEAST_P, ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_core.sampling.plan_of_params import count_steps
from ecdiff_tune.config.groups import (
    SAME,
)
from ecdiff_tune.config.schema import Schema
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.metrics.choice import MetricChoice
from ecdiff_tune.search import SEARCHES, SearchSpec
from ecdiff_tune.search.options import Options, OptunaOptions
from ecdiff_tune.search.spaces import LEAST_CALLS

ECDIFF = "ecdiff"
"""For ``method``: what this tool tunes of itself."""


@dataclass
class Settings(Schema):
    """Settings as the values that the rooms below the command line take."""

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
        """What to do without for memory."""
        return Memory(cast(Offload, self.offload), self.vae_slicing, self.vae_tiling)

    def metric_choice(self) -> MetricChoice:
        """What methods are measured by."""
        return MetricChoice(**vars(self.metrics))

    def core_link(self) -> Link:
        """The link between cloud and edge."""
        given = self.link
        token_file = None if given.token_file is None else Path(given.token_file).expanduser()
        return Link(given.mbps, given.round_trip_seconds, given.url, token_file)

    def search_options(self) -> Options:
        """How candidates race, and what Optuna gets."""
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
        given = self.params
        if given.alpha is None:
            return None
        residual = self.residuals[0]
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
        """What trials.csv has beyond (p, k, alpha, s) and the scores, where it has any."""
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
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

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
