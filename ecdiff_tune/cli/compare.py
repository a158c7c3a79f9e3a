"""``compare``: the tuned config and what else could have been done, on held-out prompts (Tables 1 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings
from ecdiff_tune.data.paper import paper_config
from ecdiff_tune.experiments import baselines, equal_seconds, method_runs, paper_tables, summary
from ecdiff_tune.experiments.baselines import Known
from ecdiff_tune.experiments.method_measurements import MethodEvaluator, extra_metrics
from ecdiff_tune.experiments.method_names import METHODS
from ecdiff_tune.experiments.methods import ComparedMethod
from ecdiff_tune.experiments.winners import config_of_study, schedule_config
from ecdiff_tune.methods.measure import Runs
from ecdiff_tune.report import quality_seconds
from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.result import medium
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import open_study


def compare(settings: Settings) -> None:
    """Tables 1 and 6 for a study's pair, and quality against seconds as a figure.

    Raises:
        ECDiffError: something that the user can act on.
    """
    spec = study_spec(settings)
    tuned = config_of_study(spec.path, spec.prompts.heldout)
    schedule = schedule_config(settings.compare.schedule, spec.path, tuned)
    with open_study(spec) as (study, pair, references):
        pipe, log = pair.pipe, study.progress.log
        adapter = pipe.config.sampling.handoff_adapter
        accelerations = baselines.tuned_accelerations(spec.path / files.METHODS)
        paper = paper_config(settings.pair.name)
        known = Known(tuned, paper, schedule, pair.latency, adapter, accelerations)
        extra = extra_metrics(settings.metric_choice(), pipe.device)
        evaluator = MethodEvaluator(study, pair, references, tuned.sampling, extra)
        names = settings.compare.methods or METHODS
        chosen = evaluator.usable(*baselines.made(known, names))
        if line := baselines.untuned(chosen, accelerations):
            log(line)
        heldout, given = references.heldout_with_edge.prompt_set, settings.compare
        runs = Runs(spec.path / files.METHODS / files.RUNS)
        drawn = references.drawn.keys
        fronts = equal_seconds.measured_settings(runs, study.ledger, tuned.sampling, drawn)
        if not (given.seconds or any(one.name == "tuned" for one in chosen)):
            fronts = {}  # there is nothing to hold them to

        def clock(methods: Sequence[ComparedMethod]) -> Mapping[ComparedMethod, float | None]:
            count, again = given.timed_prompts, given.time_again
            return method_runs.time_methods(study, pipe, heldout, methods, tuned.sampling, count, again)

        def budget(seconds: Mapping[str, float | None]) -> float | None:
            clocked = seconds.get("tuned")
            sent = pair.latency.transfer(tuned.plan())
            return given.seconds or (None if clocked is None else clocked + sent)

        alone, _ = pair.latency.alone(tuned.sampling.num_steps)
        share = (given.seconds or pair.latency.seconds(tuned.plan())) / alone
        with study.spending.part(files.COMPARE):
            equal = equal_seconds.choose(chosen, fronts, share, clock, budget)
            chosen = list(equal.methods)
            measured = evaluator.measure(chosen)
        quality = summary.quality_table(chosen, measured, settings.seed)
        costs = summary.cost_table(chosen, pair.latency, equal.seconds, tuned.sampling.num_steps)
        costs = costs.assign(comparable_seconds=summary.comparable_seconds(costs))
        costs = summary.with_budget(costs, chosen, equal.budget)
        folder = study.path / files.COMPARE
        conditions = paper_tables.conditions(spec, pipe.device, tuned.sampling, len(heldout))
        made = medium(tuned.sampling)
        paths = [
            *paper_tables.write(
                folder, "table1", paper_tables.table1(quality, costs, extra), conditions, log
            ),
            *paper_tables.write(
                folder, "table6", paper_tables.table6(costs, made, equal.budget), conditions, log
            ),
        ]
        points = quality.assign(seconds=costs["comparable_seconds"])
        paths += write_figure(folder, "quality_seconds", quality_seconds.methods(points, made))
        log("wrote " + ", ".join(map(str, paths)))
