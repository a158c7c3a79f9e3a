"""What a chosen trial becomes: a YAML with scores and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ecdiff_core.config import PairSpec, Sampling, TunedConfig
from ecdiff_core.models.devices import device_name
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.objective import Scorer, Trial
from ecdiff_tune.study import config_sections
from ecdiff_tune.study.spec import StudySpec

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline


@dataclass(frozen=True)
class ConfigSource:
    """What the YAMLs of a study's trials have in common.

    Args:
        created: when the study was begun.
        prompts: that the trials were measured on.
        latency: where seconds come from, and ``latency_name`` says which profile that is.
        pair, sampling, scheduler_config: of the YAML; estimator and handoff adapter are each trial's own.
        made_with: ``device`` and ``versions``, where they are known.
        reference: ``provenance.reference``, where not all images were the cloud's own.
        ended_early: the race has ended before all prompts that were drawn.
    """

    spec: StudySpec
    created: str
    prompts: CalibrationSet
    latency: LatencyProfile
    latency_name: str
    pair: PairSpec
    sampling: Sampling
    scheduler_config: Mapping[str, Any] | None
    made_with: Mapping[str, Any]
    reference: Mapping[str, Any] | None = None
    ended_early: bool = False

    @classmethod
    def of_pipe(
        cls,
        spec: StudySpec,
        created: str,
        prompts: CalibrationSet,
        latency: LatencyProfile,
        pipe: ECDiffPipeline,
        reference: Mapping[str, Any] | None,
    ) -> ConfigSource:
        """Of a study that generates in this process."""
        packages = ("ecdiff", "torch", "diffusers", "transformers")
        made_with = {
            "device": device_name(pipe.device),
            "versions": {name: _installed(name) for name in packages},
        }
        return cls(
            spec,
            created,
            prompts,
            latency,
            spec.latency,
            pipe.pair.spec,
            pipe.sampling,
            pipe.scheduler_config,
            made_with,
            reference,
        )


def _installed(package: str) -> str:
    """Its version; a checkout that runs without being installed has none.

    >>> _installed("no-such-package")
    'not installed'
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Heldout:
    """Measurements of a config on prompts that no one tuned on; one row a prompt."""

    prompts: CalibrationSet
    rows: tuple[Measurement, ...]


def config_of(
    trial: Trial,
    among: Iterable[Trial],
    source: ConfigSource,
    how: Mapping[str, Any],
    scorer: Scorer,
    heldout: Heldout | None = None,
    basis: str = "",
) -> TunedConfig:
    """The YAML of a trial: the one place where it is put together.

    Args:
        among: the trials that it was chosen from.
        how: it was chosen, for the provenance.
        scorer: of the trials and of the held-out measurements.
        basis: of the scores of an early answer, which is scored on whatever was measured.
    """
    spec = source.spec
    w1, seed = spec.weights.w1, spec.seed
    reported = trial if basis else scorer.on_own_runs(trial)
    score = config_sections.score_section(reported, w1, seed, basis)
    of_few = not basis and len(trial.measurements) < len(source.prompts)
    if reported is not trial or source.ended_early or of_few:
        score["num_prompts"] = len(reported.measurements)
    if heldout is not None:
        found = scorer.score(trial.plan, heldout.rows, with_burden=True)
        score["heldout"] = config_sections.heldout_section(found, heldout.rows, heldout.prompts, w1, seed)
    ended = {"until": spec.options.until, "drawn": spec.prompts.count} if source.ended_early else None
    provenance = {
        "study": spec.name,
        "search": spec.search,
        **how,
        "created": source.created,
        "calibration": config_sections.calibration_section(spec.prompts, source.prompts, ended),
        **({} if source.reference is None else {"reference": dict(source.reference)}),
        "objective": config_sections.objective_section(spec),
        "latency": config_sections.latency_section(source.latency_name, source.latency),
        **source.made_with,
        "tied": config_sections.tied_section(trial, among, w1, seed, scorer.on_own_runs),
    }
    candidate = trial.candidate
    sampling = replace(
        source.sampling,
        estimator=candidate.estimator,
        handoff_adapter=candidate.handoff_adapter,
        handoff=candidate.handoff or spec.sampling.handoff,
    )
    return TunedConfig(source.pair, candidate.params, sampling, score, provenance, source.scheduler_config)


def how_searched(spec: StudySpec, trial: Trial) -> dict[str, Any]:
    """How a study's own search found its winner, for the provenance."""
    source = "joint search" if trial.stage == "joint" else "stage 1"
    return {"extend": spec.extend, "k_and_alpha": "by hand" if spec.by_hand else source}
