"""Grids that nobody set, cut to what the number of steps allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ecdiff_core.sampling.plan import count_steps


def keys_of(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that overrides of a command line set."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [one.key_or_group for one in parsed]


def fit_grids(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Cut ``search.k`` to k < T where the command line leaves it as conf/search/ has it.

    Returns:
        Lines that say so.
    """
    steps = config.sampling.num_inference_steps
    if "search.k" in keys_of(overrides) or OmegaConf.is_missing(config.sampling, "num_inference_steps"):
        return []
    steps = count_steps(config.sampling.scheduler, steps)
    grid = list(config.search.k)
    fitting = [k for k in grid if k < steps]
    if fitting == grid or not fitting or steps <= 1:
        return []
    config.search.k = fitting
    shown = ",".join(map(str, fitting))
    return [f"search.k={shown.join('[]')}: of its usual values those below {steps}, the number of steps"]


def unread_column(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A line where the command line names a column of a text file, which has none."""
    file = config.calibration.file
    if "calibration.column" not in keys_of(overrides) or not file:
        return []
    from ecdiff_tune.data.prompt_tables import is_text

    return [f"calibration.column: {file} has a prompt a line, and no columns"] if is_text(Path(file)) else []
