"""``compare``: the tuned config and what else could have been done, on held-out prompts (Tables 1 and 6)."""

from __future__ import annotations

from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings
from ecdiff_tune.data.paper import paper_config
from ecdiff_tune.experiments import baselines, method_runs, summary, tables
from ecdiff_tune.experiments.baselines import Known
from ecdiff_tune.experiments.method_measurements import Measuring, further_metrics
from ecdiff_tune.experiments.method_names import METHODS
from ecdiff_tune.experiments.winners import config_of_study, schedule_config
from ecdiff_tune.report import quality_seconds
from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.result import thing
from ecdiff_tune.study import files
from ecdiff_tune.study.workbench import prepare


def compare(settings: Settings) -> None:
    """Tables 1 and 6 for a study's pair, and quality against seconds as a figure.

    Raises:
        ECDiffError: something that the user can act on.
    """
    spec = study_spec(settings)
    tuned = config_of_study(spec.path, spec.prompts.heldout)
    schedule = schedule_config(settings.compare.schedule, spec.path, tuned)
    with prepare(spec) as bench:
        adapter = bench.pipe.config.sampling.handoff_adapter
        known = Known(tuned, paper_config(settings.pair.name), schedule, bench.latency, adapter)
        further = further_metrics(settings.metric_choice(), bench.pipe.device)
        measuring = Measuring(bench, tuned.sampling, further)
        names = settings.compare.methods or METHODS
        chosen = measuring.usable(*baselines.made(known, names))
        measured = measuring.measure(chosen)
        timed = method_runs.time_methods(bench, chosen, tuned.sampling, settings.compare.timed_prompts)
        quality = summary.quality_table(chosen, measured, settings.seed)
        costs = summary.cost_table(chosen, bench.latency, timed, tuned.sampling.num_steps)
        costs = costs.assign(comparable_seconds=summary.comparable_seconds(costs))
        folder, told = bench.path / files.COMPARE, tables.told(bench, tuned.sampling, len(bench.heldout))
        made = thing(tuned.sampling)
        paths = [
            *tables.write(folder, "table1", tables.table1(quality, costs, further), told, bench.progress.say),
            *tables.write(folder, "table6", tables.table6(costs, made), told, bench.progress.say),
        ]
        points = quality.assign(seconds=costs["comparable_seconds"])
        paths += write_figure(folder, "quality_seconds", quality_seconds.methods(points, made))
        bench.progress.say("wrote " + ", ".join(map(str, paths)))
