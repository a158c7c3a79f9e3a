"""``report`` on a study in which accelerations alone were tuned."""

from __future__ import annotations

from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.text import counted
from ecdiff_tune.report import experiments, page, result
from ecdiff_tune.report.headline import seconds_text
from ecdiff_tune.study import files
from ecdiff_tune.study.spec import StudySpec


def holds_accelerations_alone(path: Path) -> bool:
    """Whether a study's folder holds accelerations and no config of EC-Diff."""
    tuned = any((path / name).is_file() for name in (files.CONFIG, files.STAGE1, files.TRIALS))
    return not tuned and (path / files.METHODS / files.METHODS_TABLE).is_file()


def write(spec: StudySpec) -> Path:
    """Write the page; its path.

    Raises:
        ECDiffError: a file is damaged.
    """
    source = spec.path / files.ACCELERATED
    config = TunedConfig.load(source) if source.is_file() else None
    target = spec.path / files.PAGE
    shown = {
        "spec": spec,
        "config": config,
        "heading": "no acceleration" if config is None or config.method is None else config.method.text,
        "sentence": _sentence(config),
        "accelerated": experiments.accelerations(spec.path),
        "command": lambda name: result.command(name, spec),
    }
    write_text(target, page.render("methods.html", shown))
    return target


def _sentence(config: TunedConfig | None) -> str:
    """What the fastest setting buys."""
    if config is None or config.score is None:
        return "No setting that keeps the quality that was wanted is faster than the model without one."
    score, held = config.score, config.score.get("heldout") or {}
    prompts = counted(held.get("num_prompts", 0), "prompt")
    checked = f", and {held['quality']:.3f} on {prompts} not tuned on" if held else ""
    off, seconds = score["seconds_off"], score["seconds"]
    return (
        f"{result.made_by(config.sampling).capitalize()} takes {seconds_text(seconds)} in place of "
        f"{seconds_text(off)} without it, {off / seconds:.2f} times as fast; its SSIM to the image without "
        f"it is {score['quality']:.3f}, that of the worst prompt {score['worst']:.3f}{checked}."
    )
