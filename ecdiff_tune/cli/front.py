"""The front of quality, seconds and cloud calls that a search leaves, which measures one config whole."""

from __future__ import annotations

from ecdiff_core.io.text import counted
from ecdiff_tune.cli.stage import Stages
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import Space
from ecdiff_tune.search.front import spread_front
from ecdiff_tune.search.options import LEAST_PROMPTS
from ecdiff_tune.study.spending import FRONT


def measure_front(stages: Stages, space: Space) -> None:
    """Measure configs of the forecast's front on the first prompts, for ``pareto`` and the page."""
    study, evaluator = stages.study, stages.evaluator
    spec, progress = study.spec, study.progress
    if not (spec.front and spec.kind.needs_forecast):
        return
    prompts = min(LEAST_PROMPTS, len(stages.references.calibration.prompt_set))
    configs = [evaluator.resolve(one) for one in stages.ranks.broadcast(_chosen(stages, space))]
    lacking = [one for one in configs if evaluator.missing([one], prompts)]
    if not lacking:
        return
    cloud, edge = (prompts * side for side in evaluator.most_calls([one.candidate for one in lacking]))
    progress.log(
        f"front: {counted(len(lacking), 'config')} of other seconds and cloud calls on "
        f"{counted(prompts, 'prompt')}, {cloud:,} cloud and {edge:,} edge calls at most (search.front)"
    )
    if progress.time_left is not None:
        progress.time_left.plan(FRONT, cloud, edge, prompts * len(lacking))
    with study.spending.part(FRONT):
        missing = evaluator.missing(lacking, prompts)
        progress.start_task("front on the first prompts", prompts, prompts - missing)
        evaluator.measure(lacking, progress.prompts_done, prompts)
        progress.end_stage()


def _chosen(stages: Stages, space: Space) -> list[Candidate]:
    context, grid = stages.context(space), space.grid
    costs = [context.cost(one) for one in grid]
    return spread_front(grid, context.predict(grid), costs, stages.study.spec.front)
