"""The commands: reference, stage1, stage2, tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ecdiff_core.files import write_text
from ecdiff_core.params import ECDiffParams
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune.report import pictures, tables
from ecdiff_tune.search import Space, get_search
from ecdiff_tune.search.base import Stage1Space, Stage2Space
from ecdiff_tune.settings import Settings, SettingsError
from ecdiff_tune.study import Trial, run
from ecdiff_tune.winner import heldout_scores, tuned_config
from ecdiff_tune.workbench import Workbench, prepare

SAMPLES = 8
"""Prompts in samples.png."""


def reference(settings: Settings) -> None:
    """Pictures, noise profile and latency profile."""
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        _say_paths(bench, "latency.json", "noise_profile.csv", "noise_profile.png")


def stage1(settings: Settings) -> None:
    """The reference, then (k, alpha)."""
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        _print_result(bench, _run_stage1(bench)[1])
        _say_paths(bench, "stage1.yaml", "trials.csv")


def stage2(settings: Settings) -> None:
    """s, for the study's stage1.yaml or for (k, alpha) by hand."""
    k, alpha = settings.params.k, settings.params.alpha
    with prepare(settings) as bench:
        if k is not None and alpha is not None:
            winner = ECDiffParams(bench.p(), k, alpha, settings.num_steps)
        else:
            winner = _stage1_winner(bench)
        _finish(bench, *_run_stage2(bench, winner))


def tune(settings: Settings) -> None:
    """The reference, stage 1, stage 2, then the winner on held-out prompts."""
    with prepare(settings) as bench:
        _write_noise_profile(bench)
        winner, _ = _run_stage1(bench)
        _finish(bench, *_run_stage2(bench, winner.params))


COMMANDS: dict[str, Callable[[Settings], None]] = {
    "tune": tune,
    "stage1": stage1,
    "stage2": stage2,
    "reference": reference,
}


def _run_stage1(bench: Workbench) -> tuple[Trial, TunedConfig]:
    search = bench.settings.search
    space = Stage1Space(bench.p(), tuple(search.k), tuple(search.alpha), bench.settings.num_steps)
    winner = _search(bench, 1, space)
    config = tuned_config(bench, winner)
    config.save(bench.path / "stage1.yaml")
    _point_out_edge(bench, "k", winner.params.k, search.k)
    _point_out_edge(bench, "alpha", winner.params.alpha, search.alpha)
    return winner, config


def _run_stage2(bench: Workbench, stage1_winner: ECDiffParams) -> tuple[Trial, TunedConfig]:
    settings = bench.settings
    handoff = settings.core_sampling().handoff
    space = Stage2Space.of(stage1_winner, settings.s_values, settings.num_steps, handoff)
    winner = _search(bench, 2, space)
    _point_out_edge(bench, "s", winner.params.s, space.s_values)
    return winner, tuned_config(bench, winner)


def _stage1_winner(bench: Workbench) -> ECDiffParams:
    path = bench.path / "stage1.yaml"
    if not path.is_file():
        raise SettingsError(
            f"No stage 1 in {bench.path}: run stage1 with the same settings first, "
            "or give params.k and params.alpha."
        )
    return TunedConfig.load(path).params


def _search(bench: Workbench, stage: int, space: Space) -> Trial:
    """Run one stage; trials.csv grows with every trial and keeps the stages before."""
    bench.progress.say(_forecast(bench, stage, space))
    bench.progress.start_stage(stage, len(space.grid), len(bench.prompts))
    path = bench.path / "trials.csv"
    earlier = _earlier_trials(path, stage)
    trials: list[Trial] = []

    def keep(trial: Trial) -> None:
        trials.append(trial)
        table = (
            pd.concat([earlier, tables.trials_table(trials)]) if len(earlier) else tables.trials_table(trials)
        )
        write_text(path, table.to_csv(index=False))

    search = get_search(bench.settings.search.name, space)
    winner = run(stage, search, bench.evaluator, bench.scorer(), bench.progress, keep)
    bench.progress.end_stage()
    return winner


def _earlier_trials(path: Path, stage: int) -> pd.DataFrame:
    if stage == 1 or not path.is_file():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path).astype({"s": "Int64"})
        return table[table["stage"] < stage]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{path} is damaged. Delete it; stage1 writes it again.") from error


def _forecast(bench: Workbench, stage: int, space: Space) -> str:
    """How many trials and calls at most, and about how long at the reference's pace."""
    evaluator = bench.evaluator
    plans = [evaluator.plan(params) for params in space.grid]
    shared = 0 if bench.wallclock else space.p
    prompts, steps = len(bench.prompts), bench.settings.num_steps
    cloud = (sum(plan.cloud_calls - shared for plan in plans) + shared) * prompts
    edge = sum(plan.edge_calls for plan in plans) * prompts
    cloud_pace, edge_pace = (seconds / steps for seconds in bench.reference.seconds())
    minutes = (cloud * cloud_pace + edge * edge_pace) / 60
    return (
        f"stage {stage}: at most {len(plans)} trials, {cloud:,} cloud and {edge:,} edge calls, "
        f"about {minutes:.1f} min at most (p = {space.p})"
    )


def _point_out_edge(bench: Workbench, name: str, value: float, grid: Any) -> None:
    values = sorted(grid)
    if len(values) > 1 and value in (values[0], values[-1]):
        bench.progress.say(
            f"note: the best {name} = {value:g} lies on the edge of search.{name}; "
            "a wider grid may hold a better one."
        )


def _finish(bench: Workbench, winner: Trial, config: TunedConfig) -> None:
    """Held-out score, YAML, table and pictures; the last lines that a command prints."""
    scores = dict(config.score or {})
    if len(bench.heldout):
        scores["heldout"] = heldout_scores(bench, winner)
    config = TunedConfig(config.pair, config.params, config.sampling, scores, config.provenance)
    config.save(bench.path / "ecdiff.yaml")
    write_text(bench.path / "table5.md", tables.table5([config]))
    _write_samples(bench, winner)
    _print_result(bench, config)
    _say_paths(bench, "ecdiff.yaml", "trials.csv", "table5.md", "samples.png")
    prompt = bench.prompts.prompts[0]
    yaml_path = bench.path / "ecdiff.yaml"
    bench.progress.say(f'next: python -m ecdiff_core generate --config {yaml_path} --prompt "{prompt}"')


def _write_noise_profile(bench: Workbench) -> None:
    profile = bench.reference.noise_profile()
    write_text(bench.path / "noise_profile.csv", profile.to_csv(index=False))
    pictures.noise_profile(bench.path / "noise_profile.png", profile, bench.p())


def _write_samples(bench: Workbench, winner: Trial) -> None:
    """samples.png: cloud, edge, HybridSD and EC-Diff, the prompts with the lowest SSIM first."""
    ssims = [one.ssim if one.ssim is not None else 1.0 for one in winner.measurements]
    worst = sorted(range(len(ssims)), key=lambda i: ssims[i])[:SAMPLES]
    evaluator = bench.evaluator
    cloud = torch.stack([bench.reference.prompts[i].cloud for i in worst])
    edge = torch.stack([bench.reference.prompts[i].edge for i in worst])
    hybrid = evaluator.pictures(ECDiffParams.hybrid(winner.plan.handoff_step), worst)
    tuned = evaluator.pictures(winner.params, worst)
    plan = winner.plan
    rows = [
        (f"cloud\n{plan.num_steps} calls", cloud),
        (f"edge\n{plan.num_steps} calls", edge),
        (f"HybridSD\n{plan.handoff_step} + {plan.edge_calls}", hybrid),
        (f"EC-Diff\n{plan.cloud_calls} + {plan.edge_calls}", tuned),
    ]
    headings = [f"SSIM {ssims[i]:.3f}\n{bench.prompts.prompts[i]}" for i in worst]
    pictures.samples(bench.path / "samples.png", rows, headings)


def _print_result(bench: Workbench, config: TunedConfig) -> None:
    for line in (*tables.TABLE5_HEADER, tables.table5_row(config)):
        bench.progress.say(line)
    score = config.score or {}
    low, high = score["quality_ci95"]
    line = f"quality {score['quality']:.4f} (95% {low:.4f} … {high:.4f}) on {len(bench.prompts)} prompts"
    if "heldout" in score and score["heldout"]["quality"] is not None:
        held = score["heldout"]
        line += f", {held['quality']:.4f} on {held['num_prompts']} held-out ones"
        line += f" (objective {held['objective']:.4f})"
    bench.progress.say(line)
    cloud, _ = bench.scorer().cloud_and_edge_seconds(bench.settings.num_steps)
    bench.progress.say(f"{config.plan()} · {score['seconds']:.2f} s a picture (cloud only {cloud:.2f} s)")


def _say_paths(bench: Workbench, *names: str) -> None:
    bench.progress.say("wrote " + ", ".join(str(bench.path / name) for name in names))
