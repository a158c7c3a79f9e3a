"""Settings out of range, whatever the command."""

from __future__ import annotations

import math

from ecdiff_core.errors import nearest
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_tune.config.check_experiments import check_errors, check_methods, check_metrics, check_picks
from ecdiff_tune.config.check_params import check_grids, check_params
from ecdiff_tune.config.check_search import check_search
from ecdiff_tune.config.error import SettingsError
from ecdiff_tune.config.groups import AUTO
from ecdiff_tune.config.schema import Settings
from ecdiff_tune.study import files, trackers
from ecdiff_tune.study.spec import LATENCIES

SHARING = ("on", "off")


def check(settings: Settings) -> None:
    """Refuse what is out of range or contradicts itself.

    Raises:
        SettingsError, ParamsError, ConfigError: with what was got, and what is expected.
    """
    settings.core_sampling()
    settings.pair_spec()
    settings.core_link()
    settings.core_memory()
    if settings.sharing not in SHARING:
        raise SettingsError(f"Unknown sharing {settings.sharing!r}: {nearest(settings.sharing, SHARING)}.")
    if settings.latency not in LATENCIES and not settings.latency.endswith(".json"):
        raise SettingsError(
            f"Unknown latency {settings.latency!r}: {nearest(settings.latency, LATENCIES)}, or the path of "
            "another study's or machine's latency.json."
        )
    trackers.check(settings.tracking)
    for name, value, least in (
        ("calibration.num_prompts", settings.calibration.num_prompts, 1),
        ("heldout.num_prompts", settings.heldout.num_prompts, 0),
        ("sharing_gib", settings.sharing_gib, 0),
        ("seed", settings.seed, 0),
        ("compare.timed_prompts", settings.compare.timed_prompts, 1),
        ("ablate.num_prompts", 1 if settings.ablate.num_prompts is None else settings.ablate.num_prompts, 1),
        ("errors.num_prompts", settings.errors.num_prompts, 1),
    ):
        if value < least:
            raise SettingsError(f"Expected {name} >= {least}, got {value}.")
    size = settings.batch_size
    if size != AUTO and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise SettingsError(f"Expected batch_size >= 1 or auto, got {size}.")
    if settings.seed > MAX_SEED:
        raise SettingsError(f"Expected seed <= {MAX_SEED}, got {settings.seed}.")
    for name, folder in (("study", settings.study), ("pair.name", settings.pair.name)):
        if not folder.isprintable() or not folder or folder != folder.strip("./ ") or "/" in folder:
            raise SettingsError(f"Expected {name} to be a plain folder name, got {folder!r}.")
    if settings.study == files.REFERENCE_FOLDER:
        raise SettingsError(
            f"Expected another study than {files.REFERENCE_FOLDER!r}: that folder holds all references."
        )
    for name in ("w1", "w2", "w3"):
        weight = getattr(settings.objective, name)
        if not 0 <= weight < math.inf:
            raise SettingsError(f"Expected objective.{name} to be a finite number >= 0, got {weight}.")
    if not any((settings.objective.w1, settings.objective.w2, settings.objective.w3)):
        raise SettingsError("Expected objective.w1, w2 or w3 > 0, got 0 for all: then every config is alike.")
    check_search(settings)
    check_params(settings)
    check_grids(settings)
    check_picks(settings.rerank, settings.pareto)
    check_methods(settings.compare)
    check_metrics(settings.metrics)
    check_errors(settings.errors)
