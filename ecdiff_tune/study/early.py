"""ecdiff.yaml before its study has come to an end: stopped at any moment, there is a config to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import counted
from ecdiff_tune.evaluation.candidate import PlannedCandidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.objective import Scorer, Stage, Trial
from ecdiff_tune.study.winner import ConfigSource, config_of, how_searched

PREDICTED = "predicted, not measured"


@dataclass(frozen=True)
class EarlyAnswers:
    """Writes the best config so far, with what its scores rest on; one of a finished search stays.

    Args:
        path: of the YAML.
        source: of what the study's YAMLs have in common.
    """

    path: Path
    source: ConfigSource
    scorer: Scorer

    def predicted(self, stage: Stage, config: PlannedCandidate, quality: float) -> Trial | None:
        """Write the config that is predicted to be the best; None where nothing was written.

        Args:
            quality: as predicted.
        """
        if not math.isfinite(quality):
            return None
        trial = self.scorer.trial(stage, 0, config, (Measurement(quality, None, 0.0),))
        return trial if self._write(trial, PREDICTED) else None

    def measured(self, trials: Sequence[Trial], keeps: Callable[[Trial], bool]) -> None:
        """Write the best of some trials that were measured on the same prompts.

        Args:
            keeps: of a trial with a score, whether it keeps the limits of the search.
        """
        usable = [one for one in trials if one.score is not None and keeps(one)]
        best = max(usable, key=lambda one: one.value, default=None)
        if best is None:
            return
        seen, everything = len(best.measurements), len(self.source.prompts)
        where = f"on {seen} of {counted(everything, 'prompt')}" if seen < everything else "on all prompts"
        self._write(best, f"measured {where}, the search not at its end")

    def found(self, config: TunedConfig) -> None:
        """Write the winner of a search that has come to its end, before it meets the held-out prompts."""
        if not self._finished():
            config.save(self.path)

    def _write(self, trial: Trial, basis: str) -> bool:
        if self._finished():
            return False
        how = how_searched(self.source.spec, trial)
        config_of(trial, (), self.source, how, self.scorer, basis=basis).save(self.path)
        return True

    def _finished(self) -> bool:
        try:
            return self.path.is_file() and not TunedConfig.load(self.path).basis
        except ECDiffError:  # damaged: nothing is lost with it
            return False
