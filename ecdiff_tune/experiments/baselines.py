"""What a study's winner is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.methods import METHODS as ACCELERATIONS
from ecdiff_core.methods import get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan
from ecdiff_core.sampling.plan_of_params import count_steps
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.experiments.methods import ComparedMethod, LeftOut, Sampler

HYBRID_EDGE_STEPS = (10, 25)
"""The paper's k of HybridSD: edge steps of 50."""
THINNED = 5
"""edge_k of our thinned edge side."""
PAPER_STEPS = 50
"""num_inference_steps of the paper, whose step counts are scaled to others."""


class LeftOutError(Exception):
    """A method does not apply; why is its message. Never leaves this package."""


@dataclass(frozen=True)
class Known:
    """What methods are made from.

    Args:
        tuned: the study's ecdiff.yaml.
        paper: the paper's config for the pair, if it has one.
        schedule: another study's winner, if one is given.
        latency: the study's profile.
        reference_adapter: the handoff adapter that the reference's edge images were made with.
        accelerations: that the study tuned, by name.
    """

    tuned: TunedConfig
    paper: TunedConfig | None
    schedule: TunedConfig | None
    latency: LatencyProfile
    reference_adapter: HandoffAdapter = "identity"
    accelerations: Mapping[str, MethodChoice] = field(default_factory=dict)

    @property
    def sampling(self) -> Sampling:
        """The study's."""
        return self.tuned.sampling


Make = Callable[[Known], ComparedMethod]


def _method(
    known: Known,
    name: str,
    label: str,
    params: ECDiffParams,
    estimator: str | None = None,
    adapter: HandoffAdapter | None = None,
    handoff: Handoff | None = None,
) -> ComparedMethod:
    """One of the study's own sampler; what is not told is the tuned config's."""
    own = known.sampling
    ways = (estimator or own.estimator, adapter or own.handoff_adapter, handoff or own.handoff)
    candidate = Candidate(params, *ways)
    return ComparedMethod(name, label, candidate, Sampler(own))


def _cloud(known: Known) -> ComparedMethod:
    return _method(known, "cloud", "cloud", ECDiffParams.cloud_only(known.sampling.num_steps))


def _edge(known: Known) -> ComparedMethod:
    params = ECDiffParams.edge_only()
    return _method(known, "edge", "edge", params, adapter=known.reference_adapter)


def hybrid_edge_steps(paper: int, sampling: Sampling) -> int:
    """The paper's k of HybridSD, edge steps at the end, for another number of steps.

    >>> hybrid_edge_steps(25, Sampling(num_inference_steps=12))
    6
    """
    return round(paper * sampling.num_inference_steps / PAPER_STEPS)


def _hybrid(edge_steps: int) -> Make:
    def make(known: Known) -> ComparedMethod:
        k = hybrid_edge_steps(edge_steps, known.sampling)
        params = ECDiffParams.hybrid(known.sampling.num_steps - k)
        return _method(known, f"hybrid_{edge_steps}", f"HybridSD (k={k})", params)

    return make


def _paper(known: Known) -> ComparedMethod:
    if known.paper is None:
        raise LeftOutError(f"the paper has no row for the pair {known.tuned.pair.name}")
    params = known.paper.params.scaled(PAPER_STEPS, known.sampling.num_inference_steps)
    row = known.paper.sampling
    ways = (row.estimator, row.handoff_adapter, row.handoff)
    return _method(known, "paper", "EC-Diff (paper's row)", params, *ways)


def _tuned(known: Known) -> ComparedMethod:
    return _method(known, "tuned", "EC-Diff (tuned)", known.tuned.params)


def _residual(name: str, label: str, edge_k: int) -> Make:
    """The tuned config with the whole residual, and with so many edge steps of edge_k + 1 approximated."""

    def make(known: Known) -> ComparedMethod:
        plan = known.tuned.plan()
        if plan.residual_steps or known.tuned.params.edge_schedule is not None:
            raise LeftOutError("the tuned config has a residual")
        if not plan.hands_over:
            raise LeftOutError("the tuned config hands nothing over")
        if get_estimator(known.sampling.estimator).fills_with_edge:
            raise LeftOutError("the estimator edge has a residual of its own")
        params = replace(known.tuned.params, residual=1.0, edge_k=edge_k)
        return _method(known, name, label, params)

    return make


def _reuse(known: Known) -> ComparedMethod:
    return _method(known, "reuse", "reuse, no gradient", known.tuned.params, "reuse")


def _secant(known: Known) -> ComparedMethod:
    """The plain secant: the tuned alpha damps another estimator's gradient."""
    return _method(known, "secant", "secant", replace(known.tuned.params, alpha=1.0), "secant")


def _schedule(known: Known) -> ComparedMethod:
    config = known.schedule
    if config is None:
        raise LeftOutError("no compare.schedule=STUDY is given")
    row = config.sampling
    ways = (row.estimator, row.handoff_adapter, row.handoff)
    return _method(known, "schedule", "best schedule", config.params, *ways)


def _fewer(name: str, scheduler: str | None, short: str) -> Make:
    """The cloud alone with as many steps as take no less time than the tuned config."""

    def make(known: Known) -> ComparedMethod:
        study = known.sampling
        chosen = scheduler or study.scheduler
        if scheduler is None and study.scheduler in FEWER.values():
            raise LeftOutError(f"{study.scheduler} is among the others")
        steps = equal_cost_steps(known.latency, known.tuned.plan())
        steps = max(1, steps - (count_steps(chosen, steps) > steps))
        sampling = replace(study, scheduler=chosen, num_inference_steps=min(steps, study.num_inference_steps))
        candidate = Candidate(ECDiffParams.cloud_only(sampling.num_steps), study.estimator)
        label = f"{short or chosen.removesuffix('Scheduler')}, {sampling.num_inference_steps} steps"
        return ComparedMethod(name, label, candidate, Sampler(sampling))

    return make


def equal_cost_steps(latency: LatencyProfile, plan: Plan) -> int:
    """The fewest steps of the cloud alone that take no less time than a plan.

    Seconds that differ by rounding are equal.
    """
    fixed = latency.encode.median + latency.decode.median
    return max(1, math.ceil((latency.seconds(plan) - fixed) / latency.cloud_call.median - 1e-9))


FEWER = {"fewer_ddim": "DDIMScheduler", "fewer_dpm": "DPMSolverMultistepScheduler"}


def tuned_accelerations(folder: Path) -> dict[str, MethodChoice]:
    """What ``tune method=…`` found in a study, by the names of the methods.

    Args:
        folder: of its YAMLs.

    Raises:
        ECDiffError: one is damaged.
    """
    known = {name: folder / f"{name}.yaml" for name in ACCELERATIONS}
    choices = {name: TunedConfig.load(path).method for name, path in known.items() if path.is_file()}
    return {name: choice for name, choice in choices.items() if choice is not None}


def untuned(methods: Iterable[ComparedMethod], tuned: Mapping[str, MethodChoice]) -> str:
    """Which accelerations are compared at values that nobody chose for this pair; empty where none is."""
    names = [one.name for one in methods if one.sampler.acceleration is not None and one.name not in tuned]
    what = f"at their authors' values: {', '.join(names)} (tune method=[{','.join(names)}] finds this pair's)"
    return what * bool(names)


def _accelerated(name: str) -> Make:
    """The cloud alone with an acceleration: as it was tuned in the study, else with its authors' values."""

    def make(known: Known) -> ComparedMethod:
        method, tuned = get_method(name), known.accelerations.get(name)
        if tuned is None and method.calibrated:
            raise LeftOutError(f"{', '.join(method.calibrated)} is not measured: run tune method={name}")
        made = replace(_cloud(known), name=name, label=method.label + ("" if tuned is None else " (tuned)"))
        return replace(made, sampler=replace(made.sampler, acceleration=tuned or MethodChoice(name)))

    return make


MAKERS: Mapping[str, Make] = {
    "cloud": _cloud,
    "edge": _edge,
    **{f"hybrid_{edge_steps}": _hybrid(edge_steps) for edge_steps in HYBRID_EDGE_STEPS},
    "paper": _paper,
    "tuned": _tuned,
    "residual": _residual("residual", "EC-Diff with the residual (ours)", 0),
    "residual_thinned": _residual("residual_thinned", f"the same, edge_k={THINNED} (ours)", THINNED),
    "reuse": _reuse,
    "secant": _secant,
    "schedule": _schedule,
    "fewer_own": _fewer("fewer_own", None, ""),
    "fewer_ddim": _fewer("fewer_ddim", FEWER["fewer_ddim"], "DDIM"),
    "fewer_dpm": _fewer("fewer_dpm", FEWER["fewer_dpm"], "DPM++ 2M"),
    **{name: _accelerated(name) for name in ACCELERATIONS},
}
"""By name."""


def made(known: Known, names: Sequence[str]) -> tuple[list[ComparedMethod], LeftOut]:
    """The methods of these names that apply, and why the others do not."""
    found: list[ComparedMethod] = []
    left_out: LeftOut = {}
    for name in names:
        try:
            found.append(MAKERS[name](known))
        except LeftOutError as reason:
            left_out[name] = str(reason)
    return found, left_out
