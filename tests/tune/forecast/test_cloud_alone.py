"""What is predicted of plans of the cloud alone without an edge call."""

from __future__ import annotations

import numpy as np

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.forecast.error_growth import UnpredictableError, growth, reaction
from ecdiff_tune.forecast.predictor import UNFORESEEN, Predictor

from ...refusals import refused

STEPS = 12
PLACED = [
    Candidate(ECDiffParams.scheduled(steps, 0.5, STEPS), "secant")
    for steps in ((0, 1, 2, 4, 7, 10), (0, 1, 8, 9, 10, 11), (0, 1, 2, 3, 4, 5))
]


def test_errors_are_those_of_models_that_undo_them(pipe: ECDiffPipeline, made: Reference) -> None:
    predictor = Predictor.of_cloud_alone(pipe.scheduler, "aligned", made)
    undone = reaction(pipe.scheduler, STEPS, 0.0)
    grown, grams = growth(PLACED, "aligned", predictor.response, undone), predictor.cloud_grams
    for latents, answers, found in zip(
        grown.latents[:, :, :STEPS], grown.answers, predictor.squared_errors(PLACED), strict=True
    ):
        linear = np.array([latents[-1] @ gram @ latents[-1] for gram in grams])
        apart = [one @ grams.mean(axis=0) @ one for one in latents[:-1]]
        unforeseen = UNFORESEEN * sum((answers * undone) ** 2 * apart)
        assert (unforeseen > 0) == (answers[6:].any())  # no call after an estimate, nothing to react
        np.testing.assert_allclose(found, linear * (1 + unforeseen / linear.mean()), rtol=1e-9)
    assert all(0 < one < 1 for one in predictor.qualities(PLACED))


def test_nothing_is_said_of_the_edge(pipe: ECDiffPipeline, made: Reference) -> None:
    predictor = Predictor.of_cloud_alone(pipe.scheduler, "aligned", made)
    with refused(UnpredictableError, key="edge", expected="none"):
        predictor.qualities([Candidate(ECDiffParams(3, 2, 0.3, 9))])
