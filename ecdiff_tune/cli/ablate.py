"""``ablate``: what correcting twice, alpha and the scheduler are worth (Table 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.experiments import paper_tables, summary
from ecdiff_tune.experiments.method_measurements import MethodEvaluator, extra_metrics
from ecdiff_tune.experiments.methods import ComparedMethod, Sampler
from ecdiff_tune.experiments.winners import config_of_study
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import open_study

SCHEDULERS = {"euler": ("EulerDiscreteScheduler", "Euler"), "dpm": ("DPMSolverMultistepScheduler", "DPM++")}


def ablate(settings: Settings) -> None:
    """Table 2 for a study's pair.

    Raises:
        ECDiffError: something that the user can act on.
    """
    spec = study_spec(settings)
    tuned = config_of_study(spec.path, spec.prompts.heldout)
    with open_study(spec) as (study, pair, references):
        device, log = pair.pipe.device, study.progress.log
        extra = extra_metrics(settings.metric_choice(), device)
        first = settings.ablate.num_prompts
        evaluator = MethodEvaluator(study, pair, references, tuned.sampling, extra, first)
        chosen = evaluator.usable(ablations(tuned), {})
        with study.spending.part(files.ABLATE):
            measured = evaluator.measure(chosen)
        quality = summary.quality_table(chosen, measured, settings.seed)
        costs = summary.cost_table(chosen, pair.latency, {}, tuned.sampling.num_steps)
        count = len(next(iter(measured.values())))
        conditions = paper_tables.conditions(spec, device, tuned.sampling, count)
        table = paper_tables.table2(quality, costs, extra)
        paths = paper_tables.write(study.path / files.ABLATE, "table2", table, conditions, log)
        log("wrote " + ", ".join(map(str, paths)))


def ablations(tuned: TunedConfig) -> Iterator[ComparedMethod]:
    """The tuned config, and what becomes of it with a part taken out or exchanged."""
    own, params = tuned.sampling, tuned.params
    candidate = PlannedCandidate.of_config(tuned).candidate
    yield ComparedMethod("tuned", "EC-Diff (tuned)", candidate, Sampler(own))
    twice = replace(candidate, params=correcting_twice(params, tuned.plan().handoff_step, own.num_steps))
    yield ComparedMethod("twice", "correct errors twice", twice, Sampler(own))
    without = replace(candidate, params=replace(params, alpha=1.0))
    yield ComparedMethod("without_alpha", "w/o alpha (1)", without, Sampler(own))
    for name, (scheduler, short) in SCHEDULERS.items():
        # Where the study has that scheduler, this is the tuned config's row once more.
        sampling = replace(own, scheduler=scheduler)
        sampler = Sampler(sampling, own_cloud=scheduler != own.scheduler)
        yield ComparedMethod(name, f"w/ {short} scheduler", candidate, sampler)


def correcting_twice(params: ECDiffParams, handoff_step: int, num_steps: int) -> ECDiffParams:
    """Two real cloud calls after every window of approximated steps, in place of one (the paper's 4.4).

    The paper says no more of it. Of p and k the windows keep their k steps, so that a second correction moves
    the next window on by a step; of listed steps a window loses its first step to it. The gradient after
    two real calls is their difference, which spans one step: as in the warm-up (eq. 3), alpha leaves it
    alone. The edge takes over after the first pair of corrections that ends at the handoff or later.

    >>> correcting_twice(ECDiffParams(3, 2, 0.3, 9), 9, 12).schedule
    (0, 1, 2, 5, 6, 9, 10)
    """
    if params.edge_schedule is not None:
        cloud, edge = set(params.schedule or ()), set(params.edge_schedule)
        second = _second(cloud, cloud | edge, num_steps)
        return ECDiffParams.interleaved(
            sorted(cloud | second), params.edge_schedule, params.alpha, params.residual
        )
    if params.schedule is None:
        p, k = params.p or 0, params.k or 0
        if not k:
            return params
        real = [i for i in range(num_steps) if i < p or (i - p) % (k + 2) >= k]
    else:
        known = set(params.schedule)
        real = sorted(known | _second(known, known, num_steps))
    listed = set(real)
    ends = (i + 1 for i in real if i + 1 >= handoff_step and i + 1 not in listed)
    s = next(ends, num_steps)
    return replace(params, p=None, k=None, s=s, schedule=tuple(real))


def _second(cloud: set[int], real: set[int], num_steps: int) -> set[int]:
    """The approximated steps after those cloud calls that follow an approximated one."""
    corrections = (i for i in cloud if i and i - 1 not in real)
    return {i + 1 for i in corrections if i + 1 < num_steps and i + 1 not in real}
