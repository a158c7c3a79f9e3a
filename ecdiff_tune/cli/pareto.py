"""``pareto``: what no other config beats in quality, time and cloud calls at once, from old measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ecdiff_core.config import Sampling
from ecdiff_core.front import FrontRow
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.sampling.plan import Handoff
from ecdiff_tune.cli.rerank import within_limits, written_lines
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import ParetoSettings, Settings, SettingsError
from ecdiff_tune.metrics.score_format import KEPT_DIGITS, shown
from ecdiff_tune.objective import FRONT_MERITS, Trial, pareto_front
from ecdiff_tune.report import tables
from ecdiff_tune.study import files, recorded, reranked
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.progress import Progress


def pareto(settings: Settings) -> None:
    """List the non-dominated configs of what the study measured, and write the one that is picked.

    Raises:
        ECDiffError: something that the user can act on.
    """
    with StudyFolder(study_spec(settings)) as folder, Progress() as progress:
        record = recorded.load(folder.spec)
        for line in record.notes:
            progress.log(line)
        found = front(within_limits((*record.trials, *record.partly), settings.rerank))
        table = tables.front_table(found, record.spec.seed)
        chosen = None if settings.pareto.pick is None else picked(found, settings.pareto)
        write_text(folder.path / files.PARETO_TABLE, table.to_csv(index=False))
        progress.log(f"{len(found)} of them are not beaten in quality, seconds and cloud calls at once")
        if table["prompts"].nunique() > 1:
            progress.log(
                "note: those of few prompts were measured for this front alone, or lost a race early; their "
                "quality counts what the best config has on all prompts more than on theirs"
            )
        for line in (*tables.ranking(table), f"wrote {folder.path / files.PARETO_TABLE}"):
            progress.log(line)
        if chosen is None:
            progress.log(
                "next: pareto.pick=ROW, pareto.pick=fastest_above pareto.quality=… "
                "or pareto.pick=best_below pareto.seconds=… writes one as YAML"
            )
            return
        how = {name: value for name, value in vars(settings.pareto).items() if value is not None}
        among = len(record.trials) + len(record.partly)
        measured = record.as_measured(chosen)  # what the YAML says of its quality
        config = reranked.config_of_choice(record, measured, (), {"by": "pareto", **how}, among)
        of_study = record.spec.sampling.handoff, len(record.prompts)
        config = replace(config, front=rows(found, config.sampling, *of_study))
        config.save(folder.path / files.PARETO_CONFIG)
        for line in ("", *written_lines(record, config, chosen, files.PARETO_CONFIG)):
            progress.log(line)


def front(trials: Iterable[Trial]) -> list[Trial]:
    """What no other trial beats in quality, seconds and cloud calls at once, numbered from the fastest on."""
    found = pareto_front(trials, FRONT_MERITS)
    return [replace(one, number=i) for i, one in enumerate(found, start=1)]


def rows(found: Sequence[Trial], sampling: Sampling, handoff: Handoff, prompts: int) -> tuple[FrontRow, ...]:
    """The front as a YAML holds it.

    Args:
        sampling: of the YAML, whose estimator, handoff adapter and handoff go without saying.
        handoff: of the study.
        prompts: of the study; a row says on how many where it is of fewer.
    """

    def row(one: Trial) -> FrontRow:
        its, way = one.candidate, one.candidate.handoff or handoff
        return FrontRow(
            its.params,
            round(one.quality, KEPT_DIGITS),
            round(one.seconds, 6),
            None if its.estimator == sampling.estimator else its.estimator,
            None if its.handoff_adapter == sampling.handoff_adapter else its.handoff_adapter,
            None if way == sampling.handoff else way,
            None if len(one.measurements) == prompts else len(one.measurements),
        )

    return tuple(row(one) for one in found)


def picked(found: Sequence[Trial], wanted: ParetoSettings) -> Trial:
    """The row that ``pareto.pick`` names.

    Raises:
        SettingsError: there is none.
    """
    if wanted.pick == "fastest_above":
        assert wanted.quality is not None
        good = [one for one in found if one.quality >= wanted.quality]
        if not good:
            best = max(one.quality for one in found)
            line = f"No config has pareto.quality={wanted.quality:g}: the best has {shown(best)}."
            raise SettingsError(line, key="pareto.quality", got=wanted.quality, expected=f"<= {shown(best)}")
        return min(good, key=lambda one: one.seconds)
    if wanted.pick == "best_below":
        assert wanted.seconds is not None
        fast = [one for one in found if one.seconds <= wanted.seconds]
        if not fast:
            least = found[0].seconds
            line = f"No config keeps pareto.seconds={wanted.seconds:g}: the fastest takes {least:.4g} s."
            raise SettingsError(line, key="pareto.seconds", got=wanted.seconds, expected=f">= {least:.4g}")
        return max(fast, key=lambda one: one.quality)
    row = int(wanted.pick or 0)
    if not 1 <= row <= len(found):
        raise SettingsError(key="pareto.pick", got=row, expected=f"to be a row, 1 … {len(found)}")
    return found[row - 1]
