"""What a transferred config scores beside one that is tuned anew at the same settings, and what both cost.

    python scripts/bench_transfer.py [--pair shapes] [--config YAML] [--num-prompts 100] [--json FILE]
        [--outputs DIR] [--latency JSON] [--batch 25] [SETTINGS ...]

The config (default: what `tune` finds on that many prompts at the pair's own settings) goes by `transfer` to
each of SETTINGS, comma-separated overrides; then `tune` searches there from nothing. The transferred config
is measured on the prompts that the new search was scored on, with the same latency profile. Calls are cloud
calls and, weighed by their time, edge calls; references are counted in full for both, held-out prompts for
neither. FILE is a list of rows with setting, way, taken, transferred, tuned, gap, quality, tuned_quality,
calls, tuned_calls. Stopped at any moment it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import quiet_terminal  # noqa: F401
from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.console import run_command
from ecdiff_core.io.threads import share_cores
from ecdiff_tune.__main__ import main as tuner
from ecdiff_tune.cli.composing import compose_settings
from ecdiff_tune.cli.tune import open_stages
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import Trial
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import Caller
from ecdiff_tune.study.spending import LATENCY, SAMPLES

SETTINGS = (
    "sampling.num_inference_steps=28",
    "sampling.num_inference_steps=20",
    "sampling.scheduler=DPMSolverMultistepScheduler,sampling.num_inference_steps=25",
    "sampling.guidance_scale=5",
)
"""Of the image pair, which is tuned at 50 DDIM steps and guidance 3."""


class BenchmarkError(ECDiffError):
    """A command of the benchmark failed."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("settings", nargs="*", metavar="SETTINGS", help="overrides, comma-separated (default: those above)")
    add("--pair", default="shapes", help="of conf/pair/ (default shapes)")
    add("--config", type=Path, metavar="YAML", help="what is transferred (default: tuned first)")
    add("--num-prompts", type=int, default=100, metavar="N", help="that searches tune on (default 100)")
    add(
        "--latency", type=Path, metavar="JSON", help="of the pair, that all go by (default: measured by each)"
    )
    add("--batch", type=int, default=25, metavar="N", help="prompts at a time (default 25)")
    add("--outputs", type=Path, default=Path("outputs/bench_transfer"), metavar="DIR", help="of all studies")
    add("--json", type=Path, metavar="FILE", help="where the rows go")
    return parser.parse_args()


def run(arguments: list[str]) -> tuple[int, str]:
    """A command of the tuner; its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = tuner(arguments)
    return status, out.getvalue() + err.getvalue()


def of_machine(args: argparse.Namespace) -> list[str]:
    """Settings of every command that have to do with the machine alone."""
    profile = [] if args.latency is None else [f"latency={args.latency}"]
    return [f"batch_size={args.batch}", *profile]


def tuned(args: argparse.Namespace, study: str, settings: list[str]) -> list[str]:
    """Go through a study of `tune` at these settings; the arguments that make it."""
    folder = args.outputs / "tuned"
    prompts = [f"calibration.num_prompts={args.num_prompts}", "heldout.num_prompts=0", "search=joint"]
    arguments = [f"pair={args.pair}", f"output_dir={folder}", f"study={study}", *prompts]
    arguments += [*of_machine(args), *settings]
    if not (folder / args.pair / study / files.TABLE5).is_file():
        status, text = run(["tune", *arguments])
        if status:
            line = f"tune {' '.join(arguments)} ended with status {status}: {text}"
            raise BenchmarkError(line, key="tune", got=status)
    return arguments


def calls(folder: Path) -> float:
    """Cloud-call equivalents of a study, its latency profile and sample images left out."""
    profile = LatencyProfile.load(folder / files.LATENCY)
    table = pd.read_csv(folder / files.CALLS)
    table = table[~table["part"].isin([LATENCY, SAMPLES])]
    weight = profile.edge_call.median / profile.cloud_call.median
    return float((table["cloud"] + weight * table["edge"]).sum())


def measured(arguments: list[str], config: TunedConfig) -> Trial:
    """A config on the prompts of a study, by its latency profile."""
    settings, quiet = compose_settings("tune", arguments, lambda _: None), Caller(log=lambda _: None)
    candidate = PlannedCandidate.of_config(config).candidate
    with open_stages(settings, caller=quiet) as (stages, _):
        planned = stages.evaluator.resolve(candidate)
        (found,) = stages.evaluator.measure([planned], lambda _: None)
        return stages.scorer.trial("joint", 1, planned, found)


def transferred(args: argparse.Namespace, config: Path, study: str, settings: list[str]) -> tuple[bool, Path]:
    """Whether a config is taken at these settings, and the folder of its study, which holds it either way."""
    outputs = args.outputs / "transferred"
    arguments = [f"transfer.config={config}", f"output_dir={outputs}", f"study={study}"]
    arguments += [*of_machine(args), *settings]
    folder: Path = outputs / args.pair / study
    status, text = run(["transfer", *arguments])
    refused = status == 2 and "nothing is written" in text
    if refused:
        status, text = run(["transfer", *arguments, "transfer.tolerance=100"])
    if status:
        line = f"transfer {' '.join(arguments)} ended with status {status}: {text}"
        raise BenchmarkError(line, key="transfer", got=status)
    return not refused, folder


def row(args: argparse.Namespace, config: Path, setting: str) -> dict[str, Any]:
    """What a config is worth at other settings."""
    settings = setting.split(",")
    study = "_".join(one.partition("=")[2] for one in settings)
    taken, folder = transferred(args, config, study, settings)
    spent = calls(folder)
    arguments = tuned(args, study, settings)
    anew = args.outputs / "tuned" / args.pair / study
    found, best = TunedConfig.load(folder / files.CONFIG), TunedConfig.load(anew / files.CONFIG)
    trial, score = measured(arguments, found), best.score or {}
    return {
        "setting": setting,
        "way": (found.provenance or {})["transferred"],
        "taken": taken,
        "transferred": round(trial.value, 5),
        "tuned": score["objective"],
        "gap": round(score["objective"] - trial.value, 5),
        "quality": round(trial.quality, 5),
        "tuned_quality": score["quality"],
        "calls": round(spent),
        "tuned_calls": round(calls(anew)),
    }


def bench(args: argparse.Namespace) -> None:
    config = args.config
    if config is None:
        tuned(args, "own", [])
        config = args.outputs / "tuned" / args.pair / "own" / files.CONFIG
    rows = []
    for setting in args.settings or SETTINGS:
        rows.append(row(args, config, setting))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        if args.json:
            write_text(args.json, json.dumps(rows, indent=1) + "\n")


def main() -> int:
    share_cores()
    args = parse_args()
    return run_command(lambda: bench(args), "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
