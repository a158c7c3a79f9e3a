"""``reference``, ``stage1``, ``stage2`` and ``tune``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import nn

from ecdiff_core.config import TunedConfig
from ecdiff_core.models.pair_spec import Side
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli.accelerate import accelerate
from ecdiff_tune.cli.boundary import boundary_note
from ecdiff_tune.cli.finish import config_of_winner, finish, log_end, log_result, write_noise_profile
from ecdiff_tune.cli.restore import others
from ecdiff_tune.cli.spaces import joint_space, schedule_space, stage1_space, stage2_space
from ecdiff_tune.cli.stage import Found, Stages
from ecdiff_tune.cli.study_spec import study_path, study_spec
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.evaluation.candidate import Candidate, PlannedCandidate
from ecdiff_tune.evaluation.ranks import current
from ecdiff_tune.objective import Scorer, Trial
from ecdiff_tune.search import Space
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space
from ecdiff_tune.study import files
from ecdiff_tune.study.early import EarlyAnswers
from ecdiff_tune.study.open_study import COMMAND_LINE, Caller, OpenStudy, open_study
from ecdiff_tune.study.planned_parts import planned_parts
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.time_left import watched
from ecdiff_tune.study.winner import ConfigSource


def reference(settings: Settings) -> None:
    """Images, noise profile and latency profile."""
    _refuse_params_by_hand(settings)
    with open_study(study_spec(settings), current(), settings.has_workers) as (study, _, references):
        write_noise_profile(study, references)
        log_end(study, files.LATENCY, files.NOISE_TABLE, files.NOISE_FIGURE)


def stage1(settings: Settings) -> None:
    """The reference, then (k, alpha)."""
    refuse_until(settings, "stage1")
    _refuse_params_by_hand(settings)
    _refuse_placing(settings)
    with open_stages(settings) as (stages, _):
        write_noise_profile(stages.study, stages.references)
        found = _run_stage1(settings, stages)
        log_result(stages, config_of_winner(stages, found))
        log_end(stages.study, files.STAGE1, files.TRIALS, files.NOISE_TABLE, files.NOISE_FIGURE)
        stages.study.progress.log("next: stage2 with the same settings")


def stage2(settings: Settings) -> None:
    """s, for the study's stage1.yaml, or for (k, alpha) or (schedule, alpha) by hand."""
    refuse_until(settings, "stage2")
    _refuse_placing(settings)
    if settings.params.alpha is None:
        _check_stage1_is_done(study_path(settings))
    with open_stages(settings) as (stages, pair):
        params = settings.params_by_hand(stages.references.p())
        if params:
            winner = Candidate(params, settings.sampling.estimator)
        else:
            winner = _stage1_winner(stages.study.path)
        finish(stages, pair, _run_stage2(settings, stages, winner))


def tune(settings: Settings, caller: Caller = COMMAND_LINE) -> Trial | None:
    """The reference, the search, then the winner on held-out prompts.

    Returns:
        The winner; None with other methods than EC-Diff.
    """
    if settings.methods:
        refuse_until(settings, "method=")
        _refuse_ranks()
        accelerate(settings, caller)
        return None
    _refuse_params_by_hand(settings)
    with open_stages(settings, True, caller) as (stages, pair):
        write_noise_profile(stages.study, stages.references)
        if settings.search.joint:
            found = stages.run(_joint_space(settings, stages))
        else:
            stages.study.progress.log(_effort_of_tune(settings, stages))
            winner = _run_stage1(settings, stages).winner
            found = _run_stage2(settings, stages, winner.candidate)
        finish(stages, pair, found)
    return found.winner


@contextmanager
def open_stages(
    settings: Settings, whole: bool = False, caller: Caller = COMMAND_LINE
) -> Iterator[tuple[Stages, LoadedPair]]:
    """What runs the study's stages, once the reference is made; and the pair.

    Args:
        whole: the command goes on to the held-out prompts.
    """
    spec = study_spec(settings, searches=True)
    with ExitStack() as stack:
        opened = open_study(spec, current(), settings.has_workers, caller)
        study, pair, references = stack.enter_context(opened)
        if whole and study.spec.kind.needs_forecast:
            study.progress.time_left = planned_parts(study, references, pair.latency)
            references.plan_ahead()
            stack.enter_context(_calls_watched(study, pair))
        study.progress.log(f"search {settings.search.name}: {settings.kind.about}")
        spec, made = study.spec, references.calibration
        scorer = Scorer.of(pair.latency, spec.weights, spec.earliest_s, made if spec.timed else None)
        evaluator = study.evaluator(pair, made, tuning=True)
        tracking, columns = settings.tracking, settings.more_columns
        prompts = references.most_prompts
        source = ConfigSource.of_pipe(spec, study.created, prompts, pair.latency, pair.pipe, None)
        early = EarlyAnswers(study.path / files.CONFIG, source, scorer)
        yield Stages(study, references, evaluator, scorer, early, current(), tracking, columns), pair


@contextmanager
def _calls_watched(study: OpenStudy, pair: LoadedPair) -> Iterator[None]:
    """The time left goes by every call, and not only by batches, one of which may be a third of the work."""
    progress, models = study.progress, pair.pipe.pair
    left, ranks = progress.time_left, pair.batches.ranks.size
    assert left is not None

    def called(side: Side, prompts: float) -> None:
        left.called(side, prompts * ranks)  # the others work beside this one
        progress.calls_made()

    samples = 2 if study.spec.sampling.guidance_scale > 1 else 1
    sides: dict[Side, nn.Module] = {"cloud": models.cloud, "edge": models.edge}
    with watched(sides, samples, called):
        yield


def _refuse_params_by_hand(settings: Settings) -> None:
    by_hand = ("k", "alpha", "schedule", "edge_k", "residual", "edge_schedule")
    given = [f"params.{name}" for name in by_hand if getattr(settings.params, name) is not None]
    if given:
        raise SettingsError(
            f"{' and '.join(given)} {'are' if given[1:] else 'is'} for stage2 alone; here search.k, "
            "search.alpha, search.edge_k and search.residual go, or search=schedule.",
            key=given[0],
            got=given,
            expected="none",
        )


def refuse_until(settings: Settings, what: str) -> None:
    """Where no race is run that may end before all prompts.

    Raises:
        SettingsError: it is asked for.
    """
    if (until := settings.calibration.until) is not None:
        advice = "Only the race of tune with search=joint or search=schedule may end before all prompts."
        raise SettingsError(key="calibration.until", got=until, expected=f"null with {what}", advice=advice)


def _refuse_ranks() -> None:
    if current().size > 1:
        line = "tune with method= runs as one process: start it without torchrun."
        raise SettingsError(line, key="WORLD_SIZE", got=current().size, expected="1")


def _refuse_placing(settings: Settings) -> None:
    if settings.kind.places:
        name = settings.search.name
        line = f"search={name} places the real steps for every s at once: run tune with it."
        raise SettingsError(line, key="search", got=name)


def _joint_space(settings: Settings, stages: Stages) -> Space:
    if not settings.kind.places:
        return joint_space(settings, stages.references.p())
    numbers = ", ".join(map(str, settings.cloud_calls))
    stages.study.progress.log(f"placing {numbers} cloud calls by the forecast")
    return schedule_space(settings, stages.references.predictor)


def _effort_of_tune(settings: Settings, stages: Stages) -> str:
    """Of both stages; stage 2 by the k whose stage 2 would take the most calls."""
    p = stages.references.p()
    spaces = [
        stage2_space(settings, Candidate(ECDiffParams(p, k, 1.0, settings.num_steps)))
        for k in settings.search.k
    ]
    bounds = [stages.call_bounds(space) for space in spaces]
    most_expensive = max(bounds, key=lambda one: sum(stages.total_calls(one)))
    return stages.effort("tune", p, [stages.call_bounds(stage1_space(settings, p)), most_expensive])


def _run_stage1(settings: Settings, stages: Stages) -> Found:
    found = stages.run(stage1_space(settings, stages.references.p()))
    config_of_winner(stages, found).save(stages.study.path / files.STAGE1)
    assert isinstance(found.space, Stage1Space)
    _point_out_boundary(stages, "k", found.space.ks, found)
    _point_out_boundary(stages, "alpha", found.space.alphas, found)
    return found


def _run_stage2(settings: Settings, stages: Stages, stage1_winner: Candidate) -> Found:
    found = stages.run(stage2_space(settings, stage1_winner))
    assert isinstance(found.space, Stage2Space)
    _point_out_boundary(stages, "s", found.space.s_values, found)
    return found


def _point_out_boundary(stages: Stages, name: str, grid: tuple[float, ...], found: Found) -> None:
    for line in boundary_note(stages.study.spec, stages.references.p(), name, grid, found):
        stages.study.progress.log(line)


def _stage1_winner(path: Path) -> Candidate:
    _check_stage1_is_done(path)
    return PlannedCandidate.of_config(TunedConfig.load(path / files.STAGE1)).candidate


def _check_stage1_is_done(path: Path) -> None:
    if not (path / files.STAGE1).is_file():
        known = "" if (path / files.STATE).is_file() else others(path.parent, path.name)
        raise SettingsError(
            f"No stage 1 in {path}: run stage1 with the same settings first, "
            "or give params.k and params.alpha, or params.schedule and params.alpha.",
            key="params.k and params.alpha",
            got=str(path),
            advice=f"If another study was meant: {known}." if known else "",
        )
