"""The fewest cloud calls whose images are so near to the cloud's own that a race may go by them."""

from __future__ import annotations

from bisect import bisect_left

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.placed_images import ReferencePlan
from ecdiff_tune.forecast.placement import Forecast
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.proposals import Placer
from ecdiff_tune.search.spaces import LEAST_CALLS

BOUND = 5e-4
"""Of the predicted 1 - SSIM to the cloud's own images."""
ESTIMATOR = "secant"
"""What it predicts of many cloud calls comes nearest to what is measured (docs/search.md)."""
ALPHAS = (0.7, 0.9, 1.0)


def place_reference(predictor: Predictor, full_runs: int) -> ReferencePlan | None:
    """The placement of the fewest cloud calls with a predicted error of at most ``BOUND``.

    Args:
        full_runs: prompts with the cloud's own run, for the plan to keep.

    Returns:
        None where half of the steps are too few: then the cloud's own run is worth its calls.
    """
    steps = predictor.response.shape[1]
    placer = Placer(Forecast.of(predictor), ESTIMATOR, ALPHAS, steps // 2, steps)

    def placed(calls: int) -> ReferencePlan:
        schedule, alpha = placer.propose(calls, steps)[0]
        candidate = Candidate(ECDiffParams.scheduled(schedule, alpha, steps), ESTIMATOR)
        error = 1 - predictor.qualities([candidate])[0]
        return ReferencePlan(schedule, alpha, ESTIMATOR, steps, error, full_runs)

    numbers = range(LEAST_CALLS, steps // 2 + 1)
    first = bisect_left(numbers, True, key=lambda calls: placed(calls).predicted_error <= BOUND)
    return placed(numbers[first]) if first < len(numbers) else None
