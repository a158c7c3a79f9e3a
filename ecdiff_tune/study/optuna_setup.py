"""What ``search=optuna`` knows of its study: where it lies, its name, the params to begin with, what its
workers have in common."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.paper import paper_config
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import stage_name
from ecdiff_tune.search import Space
from ecdiff_tune.search.options import Options, OptunaOptions, SearchError
from ecdiff_tune.study import files
from ecdiff_tune.study.folder import PLACES, differences
from ecdiff_tune.study.renamed import WITHOUT, present_settings
from ecdiff_tune.study.spec import StudySpec

SOME_PAIR = "sd14_bksdm_small"
"""Whose row stands for pairs that are not the paper's."""
COMMON = "common"
"""The study's user attribute that says what all workers go by."""
_EACH_ITS_OWN = {
    *("device", "pair.cloud", "pair.edge", "pair.cloud_config", "pair.edge_config", "pair.lora"),
    *("calibration.file", "search.sampler", "search.storage", "search.study_name"),
    *PLACES,
}
"""Settings that workers need not share: the weights' fingerprints and the prompts' digest are what counts."""


def search_options(spec: StudySpec, space: Space) -> Options:
    """The settings of a search over a space; stages that are searched one by one have a study each."""
    optuna = _study_options(spec)
    if space.stage != "joint":
        optuna = replace(optuna, study_name=f"{optuna.study_name} {stage_name(space.stage)}")
    options = replace(spec.options, optuna=optuna)
    if spec.kind.walks and (spec.timed or spec.extend):
        # What is timed has no objective of a prompt alone, and what is walked again must be known whole.
        return replace(options, error_rate=0.0)
    return options


def _study_options(spec: StudySpec) -> OptunaOptions:
    optuna = spec.options.optuna
    storage, artifacts = optuna.storage, optuna.artifacts
    if not storage:
        storage = str(spec.path / files.JOURNAL)
    elif "://" not in storage:  # a journal file
        storage = os.path.expanduser(storage)
        artifacts = artifacts or f"{storage}.{files.ARTIFACTS}"
    return replace(
        optuna,
        storage=storage,
        worker=f"{platform.node()}:{spec.path.resolve()}" if spec.has_workers else "",
        artifacts=os.path.expanduser(artifacts or spec.path / files.ARTIFACTS),
        start=papers_params(spec.pair.name, spec.num_steps) if spec.warm_start else None,
    )


def agree(spec: StudySpec, bound: Mapping[str, Any], profile: Callable[[], LatencyProfile]) -> LatencyProfile:
    """The latency profile that all workers of the Optuna study go by, so that their objectives compare.

    The first worker's; others that begin meanwhile wait for it.

    Args:
        bound: the settings that this worker's folder is bound to, which must be those of the others.
        profile: this worker's own, asked for where there is none.

    Raises:
        SearchError: the Optuna study belongs to other settings.
    """
    from ecdiff_tune.search.optuna_study import open_study  # an optional dependency
    from ecdiff_tune.search.optuna_workers import once

    options = _study_options(spec)
    study = open_study(options)
    mine = {key: value for key, value in bound.items() if key not in _EACH_ITS_OWN}

    def common_to_all() -> dict[str, Any]:
        return {"settings": mine, "latency": asdict(profile())}

    if COMMON not in study.user_attrs:
        name = f"{options.study_name} {COMMON}"
        turns = open_study(replace(options, study_name=name, objectives=OptunaOptions().objectives))
        study.set_user_attr(COMMON, once(turns, options.worker, common_to_all))  # the same, whoever sets it
    common = study.user_attrs[COMMON]
    # A setting that the study does not know yet had its default when it was made.
    defaults = {**spec.defaults, **WITHOUT}
    older = {key: defaults[key] for key in mine if key in defaults}
    if found := differences({**older, **present_settings(common["settings"])}, mine):
        raise SearchError(
            f"The Optuna study {options.study_name} belongs to other settings ({'; '.join(found)}).",
            key="search.study_name",
            got=found,
            advice="Choose another search.study_name.",
        )
    return LatencyProfile.of(common["latency"])


def refuse_another_start(spec: StudySpec) -> None:
    """See that ``resume=false`` begins anew: an Optuna study outside the folder cannot be set aside with it.

    Raises:
        SearchError: the study is there, or the storage cannot be used.
    """
    if spec.resume or not spec.has_workers:
        return
    from ecdiff_tune.search.optuna_study import study_names  # an optional dependency

    options = _study_options(spec)
    name = options.study_name
    if any(one == name or one.startswith(f"{name} stage ") for one in study_names(options)):
        raise SearchError(
            f"resume=false would go on with the Optuna study {name} in {options.storage}, which other "
            "workers may be using.",
            key="resume",
            got=False,
            advice="Choose another search.study_name=NAME, or leave out resume=false to go on with it.",
        )


def papers_params(pair: str, num_steps: int) -> ECDiffParams:
    """The row of a pair in the paper's Table 5, stretched from its steps to T."""
    config = paper_config(pair) or paper_config(SOME_PAIR)
    assert config is not None
    return config.params.scaled(config.sampling.num_steps, num_steps)
