"""What is predicted of plans of the cloud alone without an edge call."""

from __future__ import annotations

import numpy as np

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.forecast.error_growth import UnpredictableError, coefficients, reaction
from ecdiff_tune.forecast.predictor import Predictor

from ...refusals import refused

STEPS = 12
PLACED = [
    Candidate(ECDiffParams.scheduled(steps, 0.5, STEPS), "secant")
    for steps in ((0, 1, 2, 4, 7, 10), (0, 1, 8, 9, 10, 11), (0, 1, 2, 3, 4, 5))
]


def test_errors_are_those_of_models_that_undo_them(pipe: ECDiffPipeline, made: Reference) -> None:
    predictor = Predictor.of_cloud_alone(pipe.scheduler, "aligned", made)
    undone = reaction(pipe.scheduler, STEPS, 0.0)
    factors = coefficients(PLACED, "aligned", predictor.response, undone)[:, :STEPS]
    for one, found in zip(factors, predictor.squared_errors(PLACED), strict=True):
        expected = [one @ prompt.gram.numpy() @ one for prompt in made.prompts]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert all(0 < one < 1 for one in predictor.qualities(PLACED))


def test_nothing_is_said_of_the_edge(pipe: ECDiffPipeline, made: Reference) -> None:
    predictor = Predictor.of_cloud_alone(pipe.scheduler, "aligned", made)
    with refused(UnpredictableError, key="edge", expected="none"):
        predictor.qualities([Candidate(ECDiffParams(3, 2, 0.3, 9))])
