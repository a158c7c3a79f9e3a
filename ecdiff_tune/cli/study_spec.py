"""Settings as the study that they describe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

from ecdiff_tune.config import AUTO, Settings
from ecdiff_tune.data.calibration import PromptSource
from ecdiff_tune.objective import BurdenOf, Weights
from ecdiff_tune.study.folder import flat
from ecdiff_tune.study.spec import Rescoring, StudySpec

VIDEO_PAIR = "embedded:shapes_video/"
"""How the ids of the embedded pair begin whose captions say what moves."""


def study_path(settings: Settings) -> Path:
    """Where a study's state lies."""
    return Path(settings.output_dir) / settings.pair.name / settings.study


def study_spec(settings: Settings, searches: bool = False, accelerates: bool = False) -> StudySpec:
    """The study in plain values.

    Args:
        searches: the command searches, so that the study is bound to its search.
        accelerates: the command tunes accelerations of the cloud model.
    """
    search, objective, rescored = settings.search, settings.objective, settings.rerank
    return StudySpec(
        path=study_path(settings),
        pair=settings.pair_spec(),
        sampling=settings.core_sampling(),
        prompts=PromptSource(
            settings.calibration.num_prompts,
            settings.heldout.num_prompts,
            settings.calibration.file,
            settings.calibration.column,
            settings.seed,
            moving=settings.pair.cloud.startswith(VIDEO_PAIR),
        ),
        s_values=settings.s_values,
        earliest_s=settings.earliest_s,
        search=search.name,
        options=settings.search_options(),
        warm_start=search.warm_start,
        extend=search.extend,
        front=search.front,
        by_hand=settings.params.alpha is not None,
        fewer_steps=settings.heldout.fewer_steps,
        handoff_adapters=settings.handoff_adapters,
        p=None if settings.params.p == AUTO else int(settings.params.p),
        weights=Weights(objective.w1, objective.w2, objective.w3, cast(BurdenOf, objective.burden)),
        link=settings.core_link(),
        reference=settings.reference,
        asks_edge=settings.asks_edge,
        accelerates=accelerates,
        latency=settings.latency,
        rescoring=Rescoring(
            None if rescored.latency is None else Path(rescored.latency).expanduser(),
            rescored.min_quality,
            rescored.max_seconds,
        ),
        device=settings.device,
        memory=settings.core_memory(),
        batch_size=None if settings.batch_size == AUTO else int(settings.batch_size),
        shares=settings.sharing == "on",
        sharing_gib=settings.sharing_gib,
        seed=settings.seed,
        resume=settings.resume,
        searches=searches,
        settings=flat(asdict(settings)),
        defaults=flat(asdict(Settings())),
    )
