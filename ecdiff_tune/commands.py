"""The commands: reference, stage1, stage2, tune, check."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.files import write_text
from ecdiff_core.params import ECDiffParams
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune import proposals, samples, trackers
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.check import check
from ecdiff_tune.forecast import forecast, total_calls
from ecdiff_tune.optuna_setup import search_options
from ecdiff_tune.recorded import candidate_in
from ecdiff_tune.report import page, pictures, tables
from ecdiff_tune.report.result import result_lines
from ecdiff_tune.search import SEARCHES, Context, Search, Space, extend
from ecdiff_tune.search.base import Cost, GridSpace, JointSpace, Stage, Stage1Space, Stage2Space, stage_name
from ecdiff_tune.search.most import Share, most_asked
from ecdiff_tune.search.schedule_space import ScheduleSpace
from ecdiff_tune.settings import Settings, SettingsError
from ecdiff_tune.spending import HELDOUT
from ecdiff_tune.study import Trial, run
from ecdiff_tune.study_folder import flat, study_path
from ecdiff_tune.winner import heldout_scores, tuned_config
from ecdiff_tune.workbench import Workbench, prepare

STAGE1_FILE = "stage1.yaml"


def reference(settings: Settings) -> None:
    """Pictures, noise profile and latency profile."""
    _refuse_params_by_hand(settings)
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        _say_end(bench, "latency.json", "noise_profile.csv", "noise_profile.png")


def stage1(settings: Settings) -> None:
    """The reference, then (k, alpha)."""
    _refuse_params_by_hand(settings)
    _refuse_placing(settings)
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        _print_result(bench, _run_stage1(bench)[1])
        _say_end(bench, STAGE1_FILE, "trials.csv", "noise_profile.csv", "noise_profile.png")
        bench.progress.say("next: stage2 with the same settings")


def stage2(settings: Settings) -> None:
    """s, for the study's stage1.yaml, or for (k, alpha) or (schedule, alpha) by hand."""
    _refuse_placing(settings)
    if settings.params.alpha is None:
        _check_stage1_is_done(study_path(settings))
    with prepare(settings) as bench:
        params = settings.params_by_hand(bench.p())
        winner = Candidate(params, settings.sampling.estimator) if params else _stage1_winner(bench)
        _finish(bench, *_run_stage2(bench, winner))


def tune(settings: Settings) -> None:
    """The reference, stage 1, stage 2, then the winner on held-out prompts."""
    _refuse_params_by_hand(settings)
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        if settings.search.joint:
            found = _search(bench, _schedule_space(bench) if _places(settings) else _joint_space(bench))
            return _finish(bench, found.winner, tuned_config(bench, found.winner, found.trials))
        bench.progress.say(_forecast_of_tune(bench))
        winner, _ = _run_stage1(bench)
        _finish(bench, *_run_stage2(bench, winner.candidate))


def _refuse_params_by_hand(settings: Settings) -> None:
    if settings.params.alpha is not None:
        raise SettingsError(
            "params.k and params.alpha are for stage2 alone, and so is params.schedule; here search.k and "
            "search.alpha go."
        )


def _places(settings: Settings) -> bool:
    return settings.search.name == "schedule"


def _refuse_placing(settings: Settings) -> None:
    if _places(settings):
        raise SettingsError("search=schedule places the real steps for every s at once: run tune with it.")


COMMANDS: dict[str, Callable[[Settings], None]] = {
    "tune": tune,
    "stage1": stage1,
    "stage2": stage2,
    "reference": reference,
    "check": check,
}


def _stage1_space(bench: Workbench) -> Stage1Space:
    search = bench.settings.search
    settings, ks, alphas = bench.settings, tuple(search.k), tuple(search.alpha)
    adapter = settings.core_sampling().handoff_adapter
    return Stage1Space(bench.p(), ks, alphas, settings.num_steps, settings.estimators, adapter)


def _joint_space(bench: Workbench) -> JointSpace:
    settings, search = bench.settings, bench.settings.search
    return JointSpace(
        (bench.p(),) if search.p is None else tuple(search.p),
        tuple(search.k),
        tuple(search.alpha),
        settings.s_values,
        settings.num_steps,
        settings.core_sampling().handoff,
        settings.estimators,
        settings.handoff_adapters,
    )


def _schedule_space(bench: Workbench) -> ScheduleSpace:
    settings = bench.settings
    numbers = ", ".join(map(str, settings.cloud_calls))
    bench.progress.say(f"placing {numbers} cloud calls by the forecast")
    return ScheduleSpace(
        proposals.propose(
            bench.predictor,
            settings.cloud_calls,
            settings.s_values,
            settings.estimators,
            settings.handoff_adapters,
            tuple(settings.search.k),
            tuple(settings.search.alpha),
        ),
        settings.num_steps,
        settings.core_sampling().handoff,
    )


def _stage2_space(bench: Workbench, winner: Candidate) -> Stage2Space:
    settings = bench.settings
    handoff, adapters = settings.core_sampling().handoff, settings.handoff_adapters
    return Stage2Space.of(winner, settings.s_values, settings.num_steps, handoff, adapters)


def _run_stage1(bench: Workbench) -> tuple[Trial, TunedConfig]:
    found = _search(bench, _stage1_space(bench))
    config = tuned_config(bench, found.winner, found.trials)
    config.save(bench.path / STAGE1_FILE)
    assert isinstance(found.space, Stage1Space)
    _point_out_edge(bench, "k", config.params.k, found.space.ks)
    _point_out_edge(bench, "alpha", config.params.alpha, found.space.alphas)
    return found.winner, config


def _run_stage2(bench: Workbench, stage1_winner: Candidate) -> tuple[Trial, TunedConfig]:
    found = _search(bench, _stage2_space(bench, stage1_winner))
    config = tuned_config(bench, found.winner, found.trials)
    assert isinstance(found.space, Stage2Space)
    _point_out_edge(bench, "s", config.params.s, found.space.s_values)
    return found.winner, config


def _stage1_winner(bench: Workbench) -> Candidate:
    _check_stage1_is_done(bench.path)
    return candidate_in(TunedConfig.load(bench.path / STAGE1_FILE))


def _check_stage1_is_done(path: Path) -> None:
    if not (path / STAGE1_FILE).is_file():
        raise SettingsError(
            f"No stage 1 in {path}: run stage1 with the same settings first, "
            "or give params.k and params.alpha, or params.schedule and params.alpha."
        )


@dataclass(frozen=True)
class Found:
    """What a stage found, among which trials, in which space (extended, if it was)."""

    winner: Trial
    trials: tuple[Trial, ...]
    space: Space


def _search(bench: Workbench, space: Space) -> Found:
    """Run one stage; trials.csv grows with every trial and keeps the stages before."""
    stage = space.stage
    most = _most(bench, space)
    bench.progress.say(forecast(bench, stage_name(stage), space.p, [most]))
    bench.progress.start_stage(stage, most[0].count, len(bench.prompts))
    path = bench.path / "trials.csv"
    earlier = _earlier_trials(path) if stage == 2 else pd.DataFrame()
    trials: list[Trial] = []

    def keep(trial: Trial) -> None:
        trials.append(trial)
        tracked.trial(trial)
        table = tables.trials_table(trials, bench.settings.more_columns)
        write_text(path, (pd.concat([earlier, table]) if len(earlier) else table).to_csv(index=False))
        bench.spending.save()

    spaces = [space]
    search = _make_search(bench, spaces)
    with _tracked(bench, stage) as tracked, bench.spending.part(stage_name(stage)):
        winner = run(stage, search, bench.evaluator, bench.scorer(), bench.progress, keep)
        tracked.winner(winner)
    bench.progress.end_stage()
    space = spaces[-1]
    if bench.settings.search.name == "greedy" and len(trials) < len(space.grid):
        left = len(space.grid) - len(trials)
        bench.progress.say(
            f"{stage_name(stage)}: the walk left {left} configs untried; search=exhaustive tries all"
        )
    return Found(winner, tuple(trials), space)


def _tracked(bench: Workbench, stage: Stage) -> AbstractContextManager[trackers.Run]:
    settings = bench.settings
    name = f"{settings.pair.name}/{settings.study}/{stage_name(stage)}"
    return trackers.run(settings.tracking, name, bench.path, flat(asdict(settings)))


def _make_search(bench: Workbench, spaces: list[Space]) -> Search:
    """The search over the last of ``spaces``; with search.extend a larger space is added to them."""
    settings, first = bench.settings, spaces[-1]

    def make(space: Space) -> Search:
        return SEARCHES[settings.search.name](space, _context(bench, space))

    if not settings.search.extend or isinstance(first, ScheduleSpace):
        return make(first)

    def grow(space: GridSpace, best: Candidate) -> GridSpace | None:
        return extend.extended(space, best, settings.num_steps, settings.core_sampling().handoff)

    def on_growth(old: GridSpace, new: GridSpace) -> None:
        spaces.append(new)
        bench.progress.more_trials(len(new.grid))
        bench.progress.say(
            f"the best so far lies on the edge of the grid: it goes on with {extend.told(old, new)}"
        )

    return extend.Extending(make, first, grow, on_growth)


def _context(bench: Workbench, space: Space) -> Context:
    """What the search may know without asking."""
    evaluator, scorer = bench.evaluator, bench.scorer()

    def objective(candidate: Candidate, quality: float) -> float:
        return scorer.if_quality(evaluator.plan(candidate), quality, with_burden=space.stage != 1)

    def cost(candidate: Candidate) -> Cost:
        plan = evaluator.plan(candidate)
        return Cost(bench.latency.seconds(plan), plan.cloud_calls, plan.approximated, plan.edge_calls)

    options = search_options(bench.settings, space)
    seed, records = bench.settings.seed, bench.records()
    return Context(len(bench.prompts), objective, bench.predict, seed, cost, options, records)


def _earlier_trials(path: Path) -> pd.DataFrame:
    """Those of stage 1."""
    if not path.is_file():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path).astype(dict.fromkeys(tables.WHOLE_OR_EMPTY, "Int64"))
        return table[table["stage"] == 1]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{path} is damaged. Delete it; stage1 writes it again.") from error


def _forecast_of_tune(bench: Workbench) -> str:
    """Of both stages; stage 2 by the k whose stage 2 would take the most calls."""
    spaces = [
        _stage2_space(bench, Candidate(ECDiffParams(bench.p(), k, 1.0, bench.settings.num_steps)))
        for k in bench.settings.search.k
    ]
    found = [_most(bench, space) for space in spaces]
    dearest = max(found, key=lambda shares: sum(total_calls(bench, shares)))
    return forecast(bench, "tune", bench.p(), [_most(bench, _stage1_space(bench)), dearest])


def _most(bench: Workbench, space: Space) -> list[Share]:
    return most_asked(bench.settings.search.name, space, _context(bench, space))


def _point_out_edge(bench: Workbench, name: str, value: float | None, grid: Any) -> None:
    values = sorted(grid)
    if bench.settings.search.extend:  # it went as far as it may
        return
    if len(values) > 1 and value in (values[0], values[-1]):
        bench.progress.say(
            f"note: the best {name} = {value:g} lies on the edge of search.{name}; "
            "a wider grid may hold a better one (search.extend=true)."
        )


def _finish(bench: Workbench, winner: Trial, config: TunedConfig) -> None:
    """Held-out score, YAML, table, pictures and page; the last lines that a command prints."""
    scores = dict(config.score or {})
    if len(bench.heldout):
        with bench.spending.part(HELDOUT):
            scores["heldout"] = heldout_scores(bench, winner)
    config = TunedConfig(config.pair, config.params, config.sampling, scores, config.provenance)
    config.save(bench.path / "ecdiff.yaml")
    write_text(bench.path / "table5.md", tables.table5([config]))
    with bench.spending.part("samples"):
        samples.write(bench, winner)
    samples.write_edge_alone(bench)
    _print_result(bench, config)
    _say_end(bench, "ecdiff.yaml", "trials.csv", "table5.md", samples.GRID)
    yaml_path, prompt = (shlex.quote(str(w)) for w in (bench.path / "ecdiff.yaml", bench.prompts.prompts[0]))
    bench.progress.say(f"next: python -m ecdiff_core generate --config {yaml_path} --prompt {prompt}")
    # After all else, which an error of the page must not keep back.
    bench.progress.say(f"page: {page.write(bench.path, bench.settings)}")


def _write_noise_profile(bench: Workbench) -> None:
    profile = bench.reference.noise_profile()
    write_text(bench.path / "noise_profile.csv", profile.to_csv(index=False))
    pictures.noise_profile(bench.path / "noise_profile.png", profile, bench.p())


def _print_result(bench: Workbench, config: TunedConfig) -> None:
    cloud, _ = bench.scorer().cloud_and_edge_seconds(bench.settings.num_steps)
    for line in result_lines(config, len(bench.prompts), cloud):
        bench.progress.say(line)


def _say_end(bench: Workbench, *names: str) -> None:
    bench.progress.say(bench.spending.told())
    bench.progress.say("wrote " + ", ".join(str(bench.path / name) for name in names))
