"""``reference``, ``stage1``, ``stage2`` and ``tune``."""

from __future__ import annotations

from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli.effort import effort, total_calls
from ecdiff_tune.cli.finish import finish, print_result, say_end, write_noise_profile
from ecdiff_tune.cli.restore import others
from ecdiff_tune.cli.spaces import joint_space, schedule_space, stage1_space, stage2_space
from ecdiff_tune.cli.stage import most_asked, point_out_boundary, run_stage
from ecdiff_tune.cli.study_spec import study_path, study_spec
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ranks import current
from ecdiff_tune.objective import Trial
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space
from ecdiff_tune.study import files
from ecdiff_tune.study.recorded import candidate_in
from ecdiff_tune.study.winner import config_of_winner
from ecdiff_tune.study.workbench import Workbench, prepare


def reference(settings: Settings) -> None:
    """Pictures, noise profile and latency profile."""
    _refuse_params_by_hand(settings)
    with prepare(study_spec(settings), current(), settings.has_workers) as bench:
        write_noise_profile(bench)
        say_end(bench, files.LATENCY, files.NOISE_TABLE, files.NOISE_FIGURE)


def stage1(settings: Settings) -> None:
    """The reference, then (k, alpha)."""
    _refuse_params_by_hand(settings)
    _refuse_placing(settings)
    with prepare(study_spec(settings), current(), settings.has_workers) as bench:
        write_noise_profile(bench)
        print_result(bench, _run_stage1(settings, bench)[1])
        say_end(bench, files.STAGE1, files.TRIALS, files.NOISE_TABLE, files.NOISE_FIGURE)
        bench.progress.say("next: stage2 with the same settings")


def stage2(settings: Settings) -> None:
    """s, for the study's stage1.yaml, or for (k, alpha) or (schedule, alpha) by hand."""
    _refuse_placing(settings)
    if settings.params.alpha is None:
        _check_stage1_is_done(study_path(settings))
    with prepare(study_spec(settings), current(), settings.has_workers) as bench:
        params = settings.params_by_hand(bench.p())
        winner = Candidate(params, settings.sampling.estimator) if params else _stage1_winner(bench)
        finish(bench, *_run_stage2(settings, bench, winner))


def tune(settings: Settings) -> None:
    """The reference, stage 1, stage 2, then the winner on held-out prompts."""
    _refuse_params_by_hand(settings)
    with prepare(study_spec(settings), current(), settings.has_workers) as bench:
        write_noise_profile(bench)
        if settings.search.joint:
            places = settings.kind.places
            space = schedule_space(settings, bench) if places else joint_space(settings, bench.p())
            found = run_stage(settings, bench, space)
            return finish(bench, found.winner, config_of_winner(bench, found.winner, found.trials))
        bench.progress.say(_effort_of_tune(settings, bench))
        winner, _ = _run_stage1(settings, bench)
        finish(bench, *_run_stage2(settings, bench, winner.candidate))


def _refuse_params_by_hand(settings: Settings) -> None:
    if settings.params.alpha is not None:
        raise SettingsError(
            "params.k and params.alpha are for stage2 alone, and so is params.schedule; here search.k and "
            "search.alpha go."
        )


def _refuse_placing(settings: Settings) -> None:
    if settings.kind.places:
        raise SettingsError(
            f"search={settings.search.name} places the real steps for every s at once: run tune with it."
        )


def _effort_of_tune(settings: Settings, bench: Workbench) -> str:
    """Of both stages; stage 2 by the k whose stage 2 would take the most calls."""
    spaces = [
        stage2_space(settings, Candidate(ECDiffParams(bench.p(), k, 1.0, settings.num_steps)))
        for k in settings.search.k
    ]
    found = [most_asked(bench, space) for space in spaces]
    dearest = max(found, key=lambda shares: sum(total_calls(bench, shares)))
    return effort(bench, "tune", bench.p(), [most_asked(bench, stage1_space(settings, bench.p())), dearest])


def _run_stage1(settings: Settings, bench: Workbench) -> tuple[Trial, TunedConfig]:
    found = run_stage(settings, bench, stage1_space(settings, bench.p()))
    config = config_of_winner(bench, found.winner, found.trials)
    config.save(bench.path / files.STAGE1)
    assert isinstance(found.space, Stage1Space)
    point_out_boundary(bench, "k", found.space.ks, found)
    point_out_boundary(bench, "alpha", found.space.alphas, found)
    return found.winner, config


def _run_stage2(settings: Settings, bench: Workbench, stage1_winner: Candidate) -> tuple[Trial, TunedConfig]:
    found = run_stage(settings, bench, stage2_space(settings, stage1_winner))
    config = config_of_winner(bench, found.winner, found.trials)
    assert isinstance(found.space, Stage2Space)
    point_out_boundary(bench, "s", found.space.s_values, found)
    return found.winner, config


def _stage1_winner(bench: Workbench) -> Candidate:
    _check_stage1_is_done(bench.path)
    return candidate_in(TunedConfig.load(bench.path / files.STAGE1))


def _check_stage1_is_done(path: Path) -> None:
    if not (path / files.STAGE1).is_file():
        known = "" if (path / files.STATE).is_file() else others(path.parent, path.name)
        raise SettingsError(
            f"No stage 1 in {path}: run stage1 with the same settings first, "
            "or give params.k and params.alpha, or params.schedule and params.alpha."
            + (f" If another study was meant: {known}." if known else "")
        )
