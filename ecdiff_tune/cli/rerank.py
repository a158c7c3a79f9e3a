"""``rerank``: the best config by other weights, another link or another machine, from old measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ecdiff_core.config import TunedConfig
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import RerankSettings, Settings, SettingsError
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import tables
from ecdiff_tune.report.result import beaten_note, made_by, result_lines
from ecdiff_tune.study import files, recorded, reranked
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.progress import Progress, describe
from ecdiff_tune.study.recorded import Recorded

SHOWN = 10
"""Rows of the table."""


def rerank(settings: Settings) -> None:
    """Score what the study measured anew and write the best config; no model is loaded.

    Candidates are all configs that were measured on every calibration prompt, those of stage 1 (s = T, the
    cloud alone) included: their burden is 0, and where the weights do not ask for an edge they may win.

    Raises:
        ECDiffError: something that the user can act on.
    """
    with StudyFolder(study_spec(settings)) as folder, Progress() as progress:
        record = recorded.load(folder.spec)
        for line in record.notes:
            progress.log(line)
        if len(record.trials) == 1 and record.partly:
            progress.log("note: no other can be chosen; pareto shows those measured on fewer prompts.")
        left = within_limits(record.trials, settings.rerank)
        left = [replace(one, number=i) for i, one in enumerate(left, start=1)]
        winner = left[0]
        limits = {"min_quality": settings.rerank.min_quality, "max_seconds": settings.rerank.max_seconds}
        config = reranked.config_of_choice(record, winner, left, {"by": "rerank", **limits})
        config.save(folder.path / files.RERANK)
        changed = "; ".join(reranked.changed(record))
        progress.log(f"scored with {changed}" if changed else "scored as the study itself was")
        table = tables.ranking_table(left[:SHOWN])
        for line in (*tables.ranking(table), "", *written_lines(record, config, winner, files.RERANK)):
            progress.log(line)


def written_lines(record: Recorded, config: TunedConfig, chosen: Trial, name: str) -> list[str]:
    """What a command says that wrote a chosen config."""
    alone, _ = record.scorer.cloud_and_edge_seconds(record.spec.num_steps)
    spec = record.spec
    least = spec.options.min_quality if spec.rescoring.min_quality is None else spec.rescoring.min_quality
    lines = result_lines(config, len(record.prompts), alone, least)
    if chosen.config not in record.heldout_rows and len(record.heldout):
        lines.append("note: held-out prompts were measured with the study's own winner alone, not with this.")
    given = reranked.given_for_seconds(record)
    lines += beaten_note(chosen, record.trials, spec, made_by(config.sampling), given)
    return [*lines, against_own_winner(record, chosen), f"wrote {record.path / name}"]


def within_limits(trials: Sequence[Trial], limits: RerankSettings) -> list[Trial]:
    """Those with at least the quality and at most the seconds that are set, in their order.

    Raises:
        SettingsError: there are none.
    """
    left = list(trials)
    if limits.min_quality is not None:
        best = max(one.quality for one in left)
        left = [one for one in left if one.keeps(limits.min_quality, None)]
        if not left:
            wanted = limits.min_quality
            line = f"No config has rerank.min_quality={wanted:g}: the highest quality is {shown(best)}."
            raise SettingsError(line, key="rerank.min_quality", got=wanted, expected=f"<= {shown(best)}")
    if limits.max_seconds is not None:
        least = min(one.seconds for one in left)
        left = [one for one in left if one.keeps(None, limits.max_seconds)]
        if not left:
            enough = "" if limits.min_quality is None else " of enough quality"
            raise SettingsError(
                f"No config{enough} keeps rerank.max_seconds={limits.max_seconds:g}: "
                f"the fastest takes {least:.4g} s.",
                key="rerank.max_seconds",
                got=limits.max_seconds,
                expected=f">= {least:.4g}",
            )
    return left


def against_own_winner(record: Recorded, chosen: Trial) -> str:
    """What is another now than in ecdiff.yaml, old and new by the objective of now."""
    path = record.path / files.CONFIG
    old = TunedConfig.load(path) if path.is_file() else None
    if old is None or old.basis:
        return f"{path} is not there or an early answer: the study's own search has not come to an end"
    own = PlannedCandidate.of_config(old)
    of_study = f"ecdiff.yaml's config ({describe(own.candidate, 'joint', bool(own.key.alpha))})"
    known = next((one for one in record.trials if one.key == own.key), None)
    if known is None:
        return f"{of_study} is not among them"
    if known.candidate == chosen.candidate:
        return f"{of_study} is chosen here too"
    return (
        f"{of_study} -> this one: "
        f"quality {shown(known.quality)} -> {shown(chosen.quality)}, "
        f"objective {shown(known.value)} -> {shown(chosen.value)}, "
        f"{known.seconds:.2f} s -> {chosen.seconds:.2f} s {made_by(old.sampling)}"
    )
