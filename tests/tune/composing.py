"""Hydra without what it does anew for each config of ``conf/``: choosing, reading and merging files.

What it copies it copies by pickle, in a fifth of the time. What a command line gives is parsed,
applied and checked each time.
"""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import hydra.core.utils
import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra._internal.hydra import Hydra
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from ecdiff_tune.data.conf_folder import config_folder


def compose_once(patch: pytest.MonkeyPatch) -> None:
    """Keep what was chosen, read and merged; compose nothing for ``hydra.mode`` alone, which no test sets."""
    load, merge = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    choose = defaults_list._create_defaults_list
    read: dict[str, ConfigResult | None] = {}
    merged: dict[str, bytes] = {}
    chosen: dict[str, bytes] = {}

    def load_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        if not _of_ours_alone(repository):
            return load(repository, config_path)
        if config_path not in read:
            read[config_path] = load(repository, config_path)
        return read[config_path]

    def merge_once(
        loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: CachingConfigRepository
    ) -> DictConfig:
        if not _of_ours_alone(repo):
            return merge(loader, defaults, repo)
        key = repr(defaults)
        if key not in merged:
            repo.cache = copy.deepcopy(repo.cache)  # merging writes to what was read
            merged[key] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(merged[key])

    def choose_once(
        repo: CachingConfigRepository, config_name: str, overrides: Overrides, **settings: bool
    ) -> Any:
        if not _of_ours_alone(repo):
            return choose(repo, config_name, overrides, **settings)
        values = overrides.config_overrides
        overrides.config_overrides = []  # no matter to what is chosen
        key = repr((config_name, vars(overrides), settings))
        if key not in chosen:
            found = choose(repo, config_name, overrides, **settings)
            chosen[key] = pickle.dumps((found, vars(overrides)))
        found, noted = pickle.loads(chosen[key])
        vars(overrides).update(noted, config_overrides=values)
        return found

    def begin(caching: CachingConfigRepository, delegate: ConfigRepository) -> None:
        caching.delegate, caching.cache = copy.copy(delegate), {}  # new sources are another list

    patch.setattr(defaults_list, "_create_defaults_list", choose_once)
    patch.setattr(ConfigRepository, "load_config", load_once)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
    patch.setattr(CachingConfigRepository, "__init__", begin)
    patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    copying = SimpleNamespace(deepcopy=lambda config: pickle.loads(pickle.dumps(config)))
    patch.setattr(hydra.core.utils, "copy", copying)


def _of_ours_alone(repository: IConfigRepository) -> bool:
    folders = {source.path for source in repository.get_sources() if source.scheme() == "file"}
    return folders == {str(config_folder())}
