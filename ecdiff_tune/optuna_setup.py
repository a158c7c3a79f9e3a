"""What ``search=optuna`` is told of its study: where it lies, its name, and the params to begin with."""

from __future__ import annotations

import platform
from dataclasses import replace

from ecdiff_core.params import ECDiffParams
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune.__main__ import config_folder
from ecdiff_tune.search import Space
from ecdiff_tune.search.base import stage_name
from ecdiff_tune.search.options import Options
from ecdiff_tune.settings import LEAST_P, Settings
from ecdiff_tune.study_folder import study_path

JOURNAL_FILE = "optuna.journal"
SOME_PAIR = "sd14_bksdm_small"
"""Whose row stands for pairs that are not the paper's."""


def search_options(settings: Settings, space: Space) -> Options:
    """The settings of a search over a space; stages that are searched one by one have a study each."""
    options, folder = settings.search_options(), study_path(settings)
    optuna = options.optuna
    name = optuna.study_name if space.stage == "joint" else f"{optuna.study_name} {stage_name(space.stage)}"
    optuna = replace(
        optuna,
        study_name=name,
        storage=optuna.storage or str(folder / JOURNAL_FILE),
        worker=f"{platform.node()}:{folder.resolve()}" if optuna.storage else "",
        start=papers_params(settings) if settings.search.warm_start else None,
    )
    return replace(options, optuna=optuna)


def papers_params(settings: Settings) -> ECDiffParams:
    """The pair's row of the paper's Table 5, stretched from its steps to as many as are set."""
    folder = config_folder() / "tuned"
    path = folder / f"{settings.pair.name}.yaml"
    config = TunedConfig.load(path if path.is_file() else folder / f"{SOME_PAIR}.yaml")
    stretch = settings.num_steps / config.sampling.num_steps
    params = config.params
    p, s = max(LEAST_P, round((params.p or 0) * stretch)), round(params.s * stretch)
    return replace(params, p=p, s=max(p, s))
