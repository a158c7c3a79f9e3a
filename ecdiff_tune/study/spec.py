"""What a study is, in plain values: all that the tuner below the command line knows of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ecdiff_core.config import PairSpec, Sampling
from ecdiff_core.models.memory import Memory
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import PromptSource
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.objective import Weights
from ecdiff_tune.search import SEARCHES, SearchSpec
from ecdiff_tune.search.options import Options
from ecdiff_tune.study import files

PROFILE, WALLCLOCK = LATENCIES = ("profile", "wallclock")
"""What ``latency`` takes beside the path of a latency.json: the study's own profile, or timed trials."""


AUTO, FULL, PLACED = REFERENCES = ("auto", "full", "placed")
"""What ``reference`` takes."""

FULL_RUNS = 12
"""Prompts with the cloud's own run under ``placed``: so few keep the forecast's ranking (docs/search.md)."""


@dataclass(frozen=True)
class Rescoring:
    """What old measurements are scored by instead, and which of them are left.

    Args:
        latency: another machine's profile; None is the study's own.
        min_quality: mean SSIM, -1 … 1; None is the limit of the study's search.
        max_seconds: an image; None is the limit of the study's search.
    """

    latency: Path | None = None
    min_quality: float | None = None
    max_seconds: float | None = None


@dataclass(frozen=True)
class StudySpec:
    """A study: what its measurements depend on, how they are scored, where they lie.

    Args:
        path: its folder, ``outputs/<pair>/<study>``; a copy on ranks other than 0.
        home: the folder itself, where ``path`` is a copy.
        pair, sampling, prompts: what is generated.
        s_values: at which the edge may take over.
        earliest_s: s' of eq. 11.
        search: by name.
        options: how candidates race, and what Optuna is given.
        warm_start: whether Optuna begins with the paper's params.
        extend: whether the search goes on beyond its grid.
        front: configs that are measured for a front beside the winner, where there is a forecast.
        by_hand: whether (k, alpha) was given instead of searched.
        fewer_steps: held-out prompts that the winner is held against fewer steps of the cloud alone on.
        handoff_adapters: that are searched.
        p: the warm-up; None reads it off the noise profile.
        weights, link: of the objective, and of the transfer.
        reference: one of ``REFERENCES``; ``auto`` is for the study's folder and its search to decide.
        asks_edge: whether the edge may take part in what is searched.
        accelerates: whether accelerations of the cloud alone are tuned, which ask neither edge nor forecast.
        latency: where seconds come from: one of ``LATENCIES``, or the path of another study's latency.json.
        rescoring: for commands that read old measurements.
        device: by name, or ``auto``.
        memory: what is traded for it.
        batch_size: prompts at a time; None tries out how many are fastest.
        shares: whether trials share what their trajectories have in common.
        sharing_gib: host memory for that, of all ranks on a machine.
        seed: of the prompts, their noise, and all that a search draws.
        resume: go on with what the folder holds; else set it aside.
        searches: whether the command searches, which binds the folder to its search.
        settings: all of the command line's, flat, which the folder is bound to.
        defaults: the same as they are if nothing is set, for older studies.
    """

    path: Path
    pair: PairSpec
    sampling: Sampling
    prompts: PromptSource
    s_values: tuple[int, ...]
    earliest_s: int
    search: str
    options: Options = field(default_factory=Options)
    warm_start: bool = True
    extend: bool = False
    front: int = 0
    by_hand: bool = False
    fewer_steps: int = 0
    handoff_adapters: tuple[HandoffAdapter, ...] = ("identity",)
    p: int | None = None
    weights: Weights = field(default_factory=Weights)
    link: Link = field(default_factory=Link)
    reference: str = FULL
    asks_edge: bool = True
    accelerates: bool = False
    latency: str = "profile"
    rescoring: Rescoring = field(default_factory=Rescoring)
    device: str = "auto"
    memory: Memory = field(default_factory=Memory)
    batch_size: int | None = 25
    shares: bool = True
    sharing_gib: float = 4.0
    seed: int = 0
    resume: bool = True
    searches: bool = False
    home: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the study, which is its folder's."""
        return self.path.name

    @property
    def num_steps(self) -> int:
        """T."""
        return self.sampling.num_steps

    @property
    def timed(self) -> bool:
        """Whether trials are timed instead of estimated by a latency profile."""
        return self.latency == "wallclock"

    @property
    def kind(self) -> SearchSpec:
        """What is true of the search."""
        return SEARCHES[self.search]

    def with_reference(self, kept: str | None) -> StudySpec:
        """With ``reference`` decided: as set, else as the study was begun, else by the search.

        Args:
            kept: as the study was begun; None for a new one.
        """
        chosen = self.reference
        if chosen == AUTO:
            chosen = kept or (PLACED if self.kind.needs_forecast else FULL)
        return replace(self, reference=chosen, settings={**self.settings, "reference": chosen})

    @property
    def has_workers(self) -> bool:
        """Whether several processes may work on one Optuna study."""
        return self.kind.is_optuna and self.options.optuna.storage is not None

    @property
    def references(self) -> Path:
        """The folder of the references that studies of the pair share."""
        return (self.home or self.path).parent / files.REFERENCE_FOLDER

    def of_worker(self, number: int) -> StudySpec:
        """That of another worker of the same Optuna study: a folder of its own, ``STUDY-number``."""
        name = f"{self.name}-{number}"
        own = {"study": name, "search.study_name": self.options.optuna.study_name}
        return replace(self, path=self.path.with_name(name), settings={**self.settings, **own})
