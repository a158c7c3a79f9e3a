"""Grids that nobody set, cut to what the number of steps allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ecdiff_core.sampling.plan_of_params import count_steps


def keys_of(overrides: Sequence[str]) -> list[str]:
    """The settings and groups that overrides of a command line set."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [one.key_or_group for one in parsed]


def fit_grids(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Cut ``search.k`` and ``search.edge_k`` to values below T where the command line leaves them as
    conf/search/ has them.

    Returns:
        Lines that say so.
    """
    if OmegaConf.is_missing(config.sampling, "num_inference_steps"):
        return []
    steps = count_steps(config.sampling.scheduler, config.sampling.num_inference_steps)
    given, lines = keys_of(overrides), []
    for name in ("k", "edge_k"):
        grid = list(config.search[name])
        fitting = [value for value in grid if value < steps]
        if f"search.{name}" in given or fitting == grid or not fitting or steps <= 1:
            continue
        config.search[name] = fitting
        shown = ",".join(map(str, fitting)).join("[]")
        lines.append(f"search.{name}={shown}: of its usual values those below {steps}, the number of steps")
    return lines


def unread_column(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """A line where the command line names a column of a text file, which has none."""
    file = config.calibration.file
    if "calibration.column" not in keys_of(overrides) or not file:
        return []
    from ecdiff_tune.data.prompt_tables import is_text

    return [f"calibration.column: {file} has a prompt a line, and no columns"] if is_text(Path(file)) else []
