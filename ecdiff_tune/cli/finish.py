"""What a command writes and prints in the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.files import write_text
from ecdiff_tune.cli import samples
from ecdiff_tune.objective import Trial
from ecdiff_tune.report import page, tables
from ecdiff_tune.report.figure_files import save_figure
from ecdiff_tune.report.paper_figures import noise_change
from ecdiff_tune.report.result import beaten_note, made_by, result_lines
from ecdiff_tune.study import files, recorded
from ecdiff_tune.study.spending import HELDOUT
from ecdiff_tune.study.winner import heldout_scores
from ecdiff_tune.study.workbench import Workbench


def finish(bench: Workbench, winner: Trial, config: TunedConfig) -> None:
    """Held-out score, YAML, table, pictures and page; the last lines that a command prints."""
    scores = dict(config.score or {})
    if len(bench.heldout):
        with bench.spending.part(HELDOUT):
            scores["heldout"] = heldout_scores(bench, winner)
    config = replace(config, score=scores)
    config.save(bench.path / files.CONFIG)
    write_text(bench.path / files.TABLE5, tables.table5([config]))
    with bench.spending.part("samples"):
        samples.write(bench, winner)
    samples.write_edge_alone(bench)
    print_result(bench, config)
    for line in _beaten(bench, winner, config):
        bench.progress.say(line)
    say_end(bench, files.CONFIG, files.TRIALS, files.TABLE5, files.SAMPLES_GRID)
    yaml_path, prompt = shlex.quote(str(bench.path / files.CONFIG)), example(bench.prompts.prompts)
    bench.progress.say(f"next: python -m ecdiff_core generate --config {yaml_path} {prompt}")
    # After all else, which an error of the page must not keep back.
    bench.progress.say(f"page: {page.write(bench.spec)}")


def _beaten(bench: Workbench, winner: Trial, config: TunedConfig) -> list[str]:
    """Where the study measured a config that is faster and better, by the seconds of the profile."""
    record = recorded.load(bench.spec, lambda _: None)
    known = [one for one in record.trials if one.candidate == winner.candidate]
    return beaten_note(known[0], record.trials, bench.spec, made_by(config.sampling)) if known else []


def example(prompts: Sequence[str]) -> str:
    """The first prompt that a shell takes as it is shown, as an argument of ``generate``.

    >>> example(["a\\nb", "a red ring"]), example(["-5 degrees"])
    ("--prompt 'a red ring'", "--prompt='-5 degrees'")
    """
    prompt = next((one for one in prompts if one.isprintable()), "TEXT")
    return f"--prompt{'=' if prompt.startswith('-') else ' '}{shlex.quote(prompt)}"


def write_noise_profile(bench: Workbench) -> None:
    """noise_profile.csv and .png of the reference (Figure 3)."""
    profile = bench.reference.noise_profile()
    write_text(bench.path / files.NOISE_TABLE, profile.to_csv(index=False))
    save_figure(noise_change(profile, bench.p()), bench.path / files.NOISE_FIGURE)


def print_result(bench: Workbench, config: TunedConfig) -> None:
    """What the winner is and what it buys."""
    cloud, _ = bench.scorer().cloud_and_edge_seconds(bench.spec.num_steps)
    for line in result_lines(config, len(bench.prompts), cloud):
        bench.progress.say(line)


def say_end(bench: Workbench, *names: str) -> None:
    """The calls of this run, and the files of these names."""
    bench.progress.say(bench.spending.told())
    bench.progress.say("wrote " + ", ".join(str(bench.path / name) for name in names))
