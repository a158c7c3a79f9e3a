"""``errors``: the paper's Figures 1 and 5, and its Theorems 1 and 2, on a pair's own trajectories."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.cli.study_spec import study_path, study_spec
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.ranks import current
from ecdiff_tune.experiments import error_tables
from ecdiff_tune.experiments.bounds import Coefficients
from ecdiff_tune.experiments.error_runs import Work, measure, runs_beside
from ecdiff_tune.experiments.error_tables import Errors
from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.paper_figures import figure1, latent_error
from ecdiff_tune.report.table_files import write_table, wrote
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import open_study
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.spec import StudySpec


def errors(settings: Settings) -> None:
    """Disturb the cloud's own runs, follow the latent error of the tuned config, and check the theorems.

    On the first ``errors.num_prompts`` held-out prompts; where none are held out, of those tuned on.

    Raises:
        ECDiffError: something that the user can act on.
    """
    config = _config(settings)
    with open_study(study_spec(settings), current()) as (study, pair, references):
        heldout = references.heldout_prompts
        prompts = heldout if len(heldout) else references.calibration.prompt_set
        count = min(settings.errors.num_prompts, len(prompts))
        steps = pair.pipe.num_steps
        coefficients = Coefficients.of(pair.pipe.scheduler, steps)
        work = Work(tuple(settings.errors.noise), runs_beside(config), coefficients)
        kind = "held-out" if len(heldout) else "calibration"
        study.progress.log(
            f"errors of {config.plan()}, {count} {kind} prompt{'s' * (count != 1)}: about "
            f"{(1 + len(work.ratios)) * steps * count:,} cloud calls, most of them with noise after each step"
        )
        found, stills = _measure_all(pair, prompts, count, work, study.progress)
        paths = _write(study.spec, found, stills, [prompts.prompts[i] for i in range(count)])
        for line in (*error_tables.lines(found, settings.seed), wrote(paths)):
            study.progress.log(line)


def _config(settings: Settings) -> TunedConfig:
    """Of which the errors are shown: ``errors.config``, else what the study's search found.

    Raises:
        SettingsError: there is none, or it is of another number of steps or scheduler.
    """
    path = study_path(settings) / files.CONFIG
    if settings.errors.config is not None:
        path = Path(settings.errors.config).expanduser()
    elif not path.is_file():
        line = f"No {path}: run tune first, or give errors.config=FILE.yaml."
        raise SettingsError(line, key="errors.config", got=str(path))
    config = TunedConfig.load(path)
    theirs, ours = config.sampling, settings.sampling
    if (theirs.num_steps, theirs.scheduler) != (settings.num_steps, ours.scheduler):
        raise SettingsError(
            f"{path} is for {theirs.num_steps} {theirs.scheduler} steps, the study for {settings.num_steps} "
            f"{ours.scheduler} steps.",
            key="errors.config",
            got=(theirs.num_steps, theirs.scheduler),
            advice="Give another errors.config, or another study.",
        )
    return config


def _measure_all(
    pair: LoadedPair, prompts: CalibrationSet, count: int, work: Work, progress: Progress
) -> tuple[Errors, Tensor]:
    """All prompts' errors, and the images of Figure 1, (prompts, 1 + ratios, 3, height, width)."""
    progress.start_task("errors", count)
    found = []
    for rows, one in pair.batches.over(range(count), partial(measure, pair.pipe, prompts, work)):
        found.append(one)
        progress.prompts_done(len(rows))
    by_row = {row: still for one in found for row, still in zip(one.rows, one.stills, strict=True)}
    return Errors.of(work, found), torch.stack([by_row[row] for row in range(count)])


def _write(spec: StudySpec, found: Errors, stills: Tensor, prompts: list[str]) -> list[Path]:
    """Tables and figures; their paths."""
    folder, run = spec.path / files.ERRORS, found.work.runs[0]
    where = f"{spec.pair.name}, {len(stills)} prompts"
    disturbed = error_tables.figure1_table(found, spec.seed)
    corrected, checked = error_tables.corrections_by_step(found), error_tables.checks_by_window(found)
    by_method = {one.name: found.latent_errors[:, i] for i, one in enumerate(found.work.runs)}
    curves = folder / "figure5.csv"
    write_text(curves, error_tables.latent_error_table(found).to_csv(index=False))
    return [
        *write_table(
            folder,
            "figure1",
            disturbed,
            error_tables.figure1_cells(disturbed),
            f"The cloud's own run with noise after each step, against the same without; {where}.",
        ),
        *write_figure(folder, "figure1", figure1(stills, found.work.ratios, found.ssim, prompts)),
        curves,
        *write_figure(folder, "figure5", latent_error(by_method, run.plan, error_tables.examples(found))),
        *write_table(
            folder,
            "corrections",
            error_tables.corrections_table(found),
            corrected,
            f"On how many prompts the latent error fell after a real call, and how; {where}, {run.plan}.",
        ),
        *write_table(
            folder,
            "bounds",
            error_tables.checks_table(found),
            checked,
            f"Theorems 1 and 2, medians over prompts; {where}, {run.plan}.",
        ),
    ]
