"""A study's folder without a model: settings, latency profile, a ledger whose qualities are a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecdiff_core.config import PairSpec
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import (
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    PairSettings,
    SamplingSettings,
    SearchSettings,
    Settings,
)
from ecdiff_tune.data import calibration
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.spec import StudySpec

STEPS = 12
SPEC = PairSpec("tiny", ModelRef("a", None, "0123"), ModelRef("b", None, "4567"))
SPREAD = (-0.02, -0.01, 0.01, 0.02)
"""By how much the prompts' qualities differ from their mean."""
GRID = tuple(
    ECDiffParams(3, k, alpha, s)
    for k in (1, 2)
    for alpha in (0.3, 0.5)
    for s in ((7, 9, 12) if k == 1 else (9, 12))
)
"""Schedules 3C1A1C1A1C5E and so on; every alpha makes another image."""


def quality(params: ECDiffParams) -> float:
    """Falls with k and with every step that the edge does."""
    return 0.97 - 0.03 * params.k - 0.02 * params.alpha - 0.03 * (STEPS - params.s)


@dataclass(frozen=True)
class RecordedStudy:
    """What ``write`` leaves in ``outputs/tiny/default/``."""

    outputs: Path
    profile: LatencyProfile
    link: LinkSettings = field(default_factory=lambda: LinkSettings(18.88))
    latency: str = "profile"
    spread: tuple[float, ...] = SPREAD

    @property
    def settings(self) -> Settings:
        return Settings(
            pair=PairSettings("tiny", "a", "b"),
            sampling=SamplingSettings(num_inference_steps=STEPS, guidance_scale=3.0),
            search=SearchSettings("exhaustive", [1, 2], [0.3, 0.5]),
            calibration=CalibrationSettings(len(self.spread)),
            heldout=HeldoutSettings(2),
            link=self.link,
            latency=self.latency,
            device="auto",
            output_dir=str(self.outputs),
        )

    @property
    def folder(self) -> Path:
        return self.spec.path

    @property
    def spec(self) -> StudySpec:
        return study_spec(self.settings, searches=True)

    def write(
        self,
        configs: Iterable[ECDiffParams] = GRID,
        of: Callable[[ECDiffParams], float] = quality,
        rows: Mapping[ECDiffParams, int] | None = None,
        heldout: Iterable[ECDiffParams] = (),
    ) -> RecordedStudy:
        """Write it; ``rows`` says which configs were measured on fewer prompts."""
        prompts, spare = calibration.load(self.spec.prompts)
        with StudyFolder(self.spec) as folder:
            folder.claim(SPEC, prompts.digest, "cpu")
        self.profile.save(self.folder / "latency.json")
        ledger = Ledger(self.folder / "ledger.sqlite")
        for params in configs:
            count = (rows or {}).get(params, len(self.spread))
            found = [Measurement(of(params) + one, 30.0, 0.1) for one in self.spread]
            ledger.append(key_of(params), list(zip(prompts.keys, found, strict=True))[:count])
        for params in heldout:
            ledger.append(key_of(params), [(one, Measurement(of(params), 30.0, 0.1)) for one in spare.keys])
        ledger.close()
        return self

    def arguments(self, *more: str) -> list[str]:
        """Of a command: where the study lies, and no more than a user gives."""
        return ["pair=custom", "pair.name=tiny", f"output_dir={self.outputs}", *more]


def key_of(params: ECDiffParams) -> ConfigKey:
    return ConfigKey.of(Candidate(params), plan(params, STEPS))


def with_payload(profile: LatencyProfile, values: int | None = 11_800) -> LatencyProfile:
    """That many values take 0.010 s at 18.88 Mbps, the latency fixture's transfer."""
    return replace(profile, payload_values=values)
