"""What a command writes and prints in the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.cli import samples
from ecdiff_tune.cli.front import measure_front
from ecdiff_tune.cli.stage import Found, Stages
from ecdiff_tune.evaluation.reference import falls
from ecdiff_tune.experiments import fewer_steps
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import page, tables
from ecdiff_tune.report.figure_files import save_figure
from ecdiff_tune.report.paper_figures import noise_change
from ecdiff_tune.report.result import beaten_note, command, made_by, result_lines
from ecdiff_tune.study import files, recorded, reference_plan
from ecdiff_tune.study.open_study import OpenStudy
from ecdiff_tune.study.planned_parts import SHOWN
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.references import References
from ecdiff_tune.study.spending import HELDOUT, SAMPLES
from ecdiff_tune.study.winner import Heldout, config_of, how_searched


def config_of_winner(
    stages: Stages, found: Found, heldout: Heldout | None = None, how: Mapping[str, Any] | None = None
) -> TunedConfig:
    """The YAML of a stage's winner.

    Args:
        how: it was found, for the provenance; None is by the study's own search.
    """
    spec = stages.study.spec
    reference = reference_plan.section(spec.path, stages.study.ledger)
    references, how = stages.references, how or how_searched(spec, found.winner)
    prompts, ended = references.calibration.prompt_set, not references.has_all
    source = replace(stages.early.source, reference=reference, prompts=prompts, ended_early=ended)
    return config_of(found.winner, found.trials, source, how, stages.scorer, heldout)


def finish(stages: Stages, pair: LoadedPair, found: Found) -> None:
    """Held-out score, YAML, table, images and page; the last lines that a command prints."""
    study, references = stages.study, stages.references
    heldout = None
    measure_front(stages, found.space)  # before the YAML, which says what all that was measured tells
    stages.early.found(config_of_winner(stages, found))
    if len(references.heldout_prompts):
        with study.spending.part(HELDOUT):
            heldout = _measure_heldout(study, pair, references, found.winner)
    config = config_of_winner(stages, found, heldout)
    if heldout is not None:
        config = _with_fewer_steps(study, pair, references, config, heldout)
    config.save(study.path / files.CONFIG)
    write_text(study.path / files.TABLE5, tables.table5([config]))
    with study.spending.part(SAMPLES):
        shown = references.shown()
        study.progress.start_task(files.SAMPLES_GRID, SHOWN)
        samples.write(study.path, stages.evaluator, shown, found.winner)
    study.progress.end_stage()
    samples.write_edge_alone(study.path, shown, study.progress)
    log_result(stages, config)
    record = recorded.load(study.spec)
    known = next((one for one in record.trials if one.key == found.winner.key), None)
    if known is not None:  # by the seconds of the profile, which a timed trial's are not
        for line in beaten_note(known, record.trials, study.spec, made_by(config.sampling)):
            study.progress.log(line)
    log_end(study, files.CONFIG, files.TRIALS, files.TABLE5, files.SAMPLES_GRID)
    yaml_path, prompt = (
        shlex.quote(str(study.path / files.CONFIG)),
        example(references.calibration.prompt_set.prompts),
    )
    study.progress.log(f"next: python -m ecdiff_core generate --config {yaml_path} {prompt}")
    if heldout is not None:
        study.progress.log(f"and against what else could be done: {command('compare', study.spec)}")
    # After all else, which an error of the page must not keep back.
    study.progress.log(f"page: {page.write(record)}")


def _measure_heldout(study: OpenStudy, pair: LoadedPair, references: References, winner: Trial) -> Heldout:
    """The winner on the held-out set, whose reference is made now if need be."""
    evaluator, progress = study.evaluator(pair, references.heldout, tuning=False), study.progress
    prompts, config = references.heldout.prompt_set, winner.config
    missing, plan = evaluator.missing([config]), config.plan
    if progress.time_left is not None:
        progress.time_left.plan(HELDOUT, plan.cloud_calls * missing, plan.edge_calls * missing, missing)
    progress.start_task("winner on held-out prompts", len(prompts), len(prompts) - missing)
    (measured,) = evaluator.measure([config], progress.prompts_done)
    progress.end_stage()
    return Heldout(prompts, measured)


def _with_fewer_steps(
    study: OpenStudy, pair: LoadedPair, references: References, config: TunedConfig, heldout: Heldout
) -> TunedConfig:
    """The winner's YAML, with the cloud alone in the same time on some of the held-out prompts."""
    count = study.spec.fewer_steps
    fewer = fewer_steps.measure(study, pair, references.heldout, config, heldout.rows, count)
    if fewer is None:
        return config
    score = dict(config.score or {})
    return replace(config, score={**score, "heldout": {**score["heldout"], "fewer_steps": fewer}})


def example(prompts: Sequence[str]) -> str:
    """The first prompt that a shell takes as it is shown, as an argument of ``generate``.

    >>> example(["a\\nb", "a red ring"]), example(["-5 degrees"])
    ("--prompt 'a red ring'", "--prompt='-5 degrees'")
    """
    prompt = next((one for one in prompts if one.isprintable()), "TEXT")
    return f"--prompt{'=' if prompt.startswith('-') else ' '}{shlex.quote(prompt)}"


def write_noise_profile(study: OpenStudy, references: References) -> None:
    """noise_profile.csv and .png of the reference (Figure 3); a note where p cannot be read off it."""
    folder = study.path
    if study.spec.p is None and not falls(references.own_runs.noise_change):
        study.progress.log(
            "note: the noise does not change faster at first than later (noise_profile.png), so that "
            f"params.p=auto has no fall to read p off and takes {references.p()}. Set params.p, or search.p."
        )
    profile = references.own_runs.noise_profile()
    write_text(folder / files.NOISE_TABLE, profile.to_csv(index=False))
    save_figure(noise_change(profile, references.p()), folder / files.NOISE_FIGURE)


def log_result(stages: Stages, config: TunedConfig) -> None:
    """What the winner is and what it buys."""
    cloud, _ = stages.scorer.cloud_and_edge_seconds(stages.study.spec.num_steps)
    if reference := (config.provenance or {}).get("reference"):
        stages.study.progress.log(reference_plan.describe(reference))
    count, least = len(stages.references.calibration.prompt_set), stages.study.spec.options.min_quality
    for line in result_lines(config, count, cloud, least):
        stages.study.progress.log(line)


def log_end(study: OpenStudy, *names: str) -> None:
    """The calls of this run, and the files of these names."""
    study.progress.log(study.spending.describe())
    study.progress.log("wrote " + ", ".join(str(study.path / name) for name in names))
