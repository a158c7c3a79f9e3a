"""``transfer``: a tuned config at other sampling settings, for a fraction of what tuning anew costs."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.pair import checked_fingerprint
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.cli.finish import config_of_winner, log_end, log_result
from ecdiff_tune.cli.spaces import joint_space
from ecdiff_tune.cli.stage import Found, Stages
from ecdiff_tune.cli.tune import open_stages, refuse_until
from ecdiff_tune.config import Settings
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast.transferred import log_snr, transferred
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.search.predict import by_forecast
from ecdiff_tune.study import files
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.progress import describe


class TransferError(ECDiffError):
    """A config does not do at the new settings; nothing is written."""


def transfer(settings: Settings) -> None:
    """Move the config, predict its objective, measure it beside the best predicted of the grid; write it, or
    refuse.

    Raises:
        TransferError: the best predicted config scores more than ``transfer.tolerance`` higher.
        ECDiffError: something else that the user can act on.
    """
    refuse_until(settings, "transfer")
    path = str(settings.transfer.config)
    source = TunedConfig.load(path)
    with open_stages(settings) as (stages, pair):
        ways = _ways(source, stages, pair)
        space = joint_space(settings, stages.references.p())
        context = stages.context(space)
        moved, rival = (by_forecast(some, context)[0] for some in (tuple(ways), space.grid))
        promised, promised_rival = (context.objective(one, *context.predict([one])) for one in (moved, rival))
        stages.study.progress.log(
            f"transferred, real steps {ways[moved]}: predicted objective {shown(promised)}; "
            f"the best of {len(space.grid)} configs here: {shown(promised_rival)}"
        )
        trial, other = _measured(stages, moved, rival)
        stages.study.progress.log(_comparison(stages, trial, other))
        _refuse_worse(trial, other, settings.transfer.tolerance)
        how = {
            "search": "transfer",
            "transferred": ways[moved],
            "predicted_objective": round(promised, 5),
            "from": {"config": path, "params": source.params.tree(), "sampling": asdict(source.sampling)},
        }
        config = config_of_winner(stages, Found(trial, (trial,), space), how=how)
        config.save(stages.study.path / files.CONFIG)
        log_result(stages, config)
        log_end(stages.study, files.CONFIG)


def _ways(source: TunedConfig, stages: Stages, pair: LoadedPair) -> dict[Candidate, str]:
    """The config at the study's settings, each with how its real steps were moved.

    Raises:
        PairError: its weights are others.
    """
    pipe, own = pair.pipe, source.pair
    loaded = pipe.pair.spec
    checked_fingerprint("cloud", own.cloud, str(loaded.cloud.fingerprint))
    checked_fingerprint("edge", own.edge, str(loaded.edge.fingerprint))
    before = ECDiffPipeline(pipe.pair, replace(source, pair=loaded))
    places = [log_snr(one.scheduler, one.num_steps) for one in (before, pipe)]
    s_values, handoff = stages.study.spec.s_values, pipe.config.sampling.handoff
    found = transferred(source, places[0], places[1], s_values, handoff)
    sampling = source.sampling
    return {
        Candidate(params, sampling.estimator, sampling.handoff_adapter): way for params, way in found.items()
    }


def _measured(stages: Stages, *candidates: Candidate) -> list[Trial]:
    """Candidates as trials, on all of the study's prompts."""
    configs, progress = [stages.evaluator.resolve(one) for one in candidates], stages.study.progress
    count = len(stages.references.calibration.prompt_set)
    with stages.study.spending.part("transfer"):
        progress.start_task("transferred config", count, count - stages.evaluator.missing(configs))
        measured = stages.evaluator.measure(configs, progress.prompts_done)
        progress.end_stage()
    return [
        stages.scorer.trial("joint", number, config, one)
        for number, (config, one) in enumerate(zip(configs, measured, strict=True), start=1)
    ]


def _comparison(stages: Stages, trial: Trial, other: Trial) -> str:
    """Both objectives, and what lies between them with its 95% interval over prompts."""
    values = [stages.scorer.values(one) for one in (trial, other)]
    low, high = interval95(np.subtract(values[1], values[0]).tolist(), stages.study.spec.seed)
    return (
        f"measured on {len(values[0])} prompts: objective {shown(trial.value)}, the best predicted "
        f"({describe(other.candidate, 'joint')}) {shown(other.value)}: {shown(other.value - trial.value)} "
        f"apart (95% {shown(low)} … {shown(high)})"
    )


def _refuse_worse(trial: Trial, other: Trial, tolerance: float) -> None:
    gap = other.value - trial.value
    if trial.score is None or gap > tolerance:
        better = describe(other.candidate, "joint")
        raise TransferError(
            f"The transferred config scores {shown(gap)} lower than {better}, more than "
            f"transfer.tolerance={tolerance:g}: nothing is written. Run tune at these settings.",
            key="transfer.tolerance",
            got=gap,
            expected=f">= {shown(gap)}",
        )
