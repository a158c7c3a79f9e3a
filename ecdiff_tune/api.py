"""Tuning from Python: the command ``tune`` as a function, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.console import quiet_libraries
from ecdiff_core.methods import METHODS, get_method
from ecdiff_core.methods.method import shown
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.cli.composing import compose_settings
from ecdiff_tune.cli.given import settings_of_call
from ecdiff_tune.cli.keywords import overrides_of
from ecdiff_tune.cli.report import report
from ecdiff_tune.cli.study_spec import study_path
from ecdiff_tune.cli.tune import tune as run_study
from ecdiff_tune.report import tables
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import StudyError
from ecdiff_tune.study.open_study import Caller

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    AnyPair = (
        str
        | Path
        | TunedConfig
        | ECDiffPipeline
        | tuple[str, str]
        | tuple[DiffusionPipeline, DiffusionPipeline]
    )


@dataclass(frozen=True)
class Study:
    """What was tuned: a study's folder, read when it is asked for.

    Args:
        path: of the folder, ``FOLDER/PAIR/STUDY``.
        accelerated: whether other methods than EC-Diff were tuned.
    """

    path: Path
    accelerated: bool = False

    @property
    def config(self) -> TunedConfig:
        """What inference loads: its params, scores and provenance; ``config.save(path)`` writes the YAML.

        Raises:
            StudyError: there is none: the study was stopped too early, or no method's setting is worth it.
        """
        return TunedConfig.load(self._there(files.ACCELERATED if self.accelerated else files.CONFIG))

    @property
    def trials(self) -> pd.DataFrame:
        """A row a trial in the order in which they ended; of other methods than EC-Diff a row a setting.

        Raises:
            StudyError: nothing was measured yet.
        """
        if self.accelerated:
            path = self._there(f"{files.METHODS}/{files.METHODS_TABLE}")
            return pd.read_csv(path, dtype=dict.fromkeys(_lists(), str))  # the digits of a mask are no number
        return tables.whole_numbers(tables.present_names(pd.read_csv(self._there(files.TRIALS))))

    @property
    def best(self) -> pd.Series[Any]:
        """The row of ``trials`` that ``config`` was made of.

        Raises:
            StudyError: there is none yet.
        """
        config, found = self.config, self.trials
        if config.method is not None:
            wanted = {"method": config.method.name, **config.method.values}
        else:
            sampling = config.sampling
            ways = {"estimator": sampling.estimator, "handoff_adapter": sampling.handoff_adapter}
            wanted = {**config.params.tree(), **ways}
            found = found[found["stage"].astype(str) != "1"]
        for name, value in wanted.items():
            if name in found and isinstance(value, tuple):
                found = found[found[name].fillna("") == shown(value)]
            elif name in found and isinstance(value, str | int | float):
                found = found[found[name] == value]
        if found.empty:
            line = f"No trial of the config in {self.path}: it was predicted, not measured."
            raise StudyError(line, key=str(self.path), got=wanted)
        return found.iloc[-1]

    def report(self) -> Path:
        """Write the page about the study, with its images; no model is called.

        Raises:
            ECDiffError: another process works on the study, or it has measured too little.
        """
        where = {
            "pair.name": self.path.parent.name,
            "study": self.path.name,
            "output_dir": str(self.path.parents[1]),
        }
        return report(compose_settings("report", overrides_of(where), _quiet), _quiet)

    def _there(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            line = f"No {path}: nothing was found yet."
            raise StudyError(line, key=str(path), advice="Tune again to go on.")
        return path


def tune(
    pair: AnyPair,
    prompts: Iterable[str] | str | Path | None = None,
    search: str = "joint",
    *,
    folder: str | Path = "outputs",
    progress: bool | Callable[[str], None] = True,
    **settings: Any,
) -> Study:
    """Find (p, k, alpha, s) for a pair: the command ``tune``.

    Called again with the same arguments it goes on with the study, also after it was stopped; what was
    measured is not measured again. The loading bars and warnings of the libraries below are off from then
    on.

    Args:
        pair: the name of a pair (``shapes``, ``sd14_bksdm_small``, …), a folder with ``cloud/`` and
            ``edge/``, a tuned YAML, an ``ECDiffPipeline``, or cloud and edge: two folders or hub ids, or two
            diffusers pipelines. Pipelines are taken as they are, where they are.
        prompts: texts, or the path of a file (``calibration_column`` names its column). Unless
            ``calibration_num_prompts`` and ``heldout_num_prompts`` say how many, up to 100 are tuned on, and
            up to 50, at most a third, held out. None takes captions of the embedded pair's scenes.
        search: by name (docs/search.md).
        folder: below which the study lies: ``folder/PAIR/STUDY``.
        progress: True prints what the command prints, False nothing; a function is called with every line.
        settings: of docs/settings.md, with their defaults: ``search_k=[1, 2]`` is search.k,
            ``sampling_guidance_scale=3.0``, ``study="mine"``, ``objective="quality_first"``.

    Returns:
        The study, with ``config``, ``trials``, ``best`` and ``report()``.

    Raises:
        ECDiffError: something that the user can act on, on one line.
        KeyboardInterrupt: it was stopped; what was measured is kept.

    >>> from ecdiff_tune import tune
    >>> study = tune("shapes", ["a large red circle", "two small blue stars"])  # doctest: +SKIP
    >>> study.config.save("ecdiff.yaml")  # doctest: +SKIP
    """
    quiet_libraries()
    log = _log(progress)
    composed, loaded = settings_of_call(pair, prompts, search, folder, settings, log)
    try:
        run_study(composed, Caller(loaded, None if progress is True else log))
    except KeyboardInterrupt:
        log("stopped; the same call goes on from here")
        raise
    return Study(study_path(composed).absolute(), bool(composed.methods))


def _lists() -> set[str]:
    """The parameters of methods that are lists."""
    parameters = [one for name in METHODS for one in get_method(name).parameters]
    return {one.name for one in parameters if one.kind in ("ints", "floats")}


def _log(progress: bool | Callable[[str], None]) -> Callable[[str], None]:
    if callable(progress):
        return progress
    return print if progress else _quiet


def _quiet(line: str) -> None:
    """Drop a line."""
