"""Qualities without generations: the fit, the map, and a whole prediction of the tiny pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_core.sampling.sampler import Denoiser
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.forecast.error_growth import UnpredictableError, reaction, scheduler_response
from ecdiff_tune.forecast.predictor import (
    Directions,
    Predictor,
    fit_directions,
    fit_half_error,
    quality_of,
)
from ecdiff_tune.metrics.images import ssim
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.base import Context, Search
from ecdiff_tune.search.greedy import greedy

from ...refusals import refused
from ..studies import STEPS, Study, one_line
from . import test_error_growth as toys

T = toys.STEPS


def fitted(pair: toys.Pair) -> tuple[Directions, ...]:
    """The directions that a toy pair's own runs tell of."""
    met: list[Tensor] = []  # of the cloud's run, then of the edge's

    def overheard(model: Denoiser) -> Denoiser:
        return lambda latents, timestep: (met.append(latents[0]), model(latents, timestep))[1]

    noises = pair.noises()
    own = replace(pair, cloud=overheard(pair.cloud), edge=overheard(pair.edge))
    for params in (ECDiffParams.cloud_only(T), ECDiffParams.edge_only()):
        met.append(own.run(Candidate(params)))
    on_cloud, on_edge = torch.stack(met).chunk(2)
    divergence = (on_cloud - on_edge).square().sum(dim=1).numpy()
    response = scheduler_response(pair.scheduler, T)
    return fit_directions(pair.scheduler, response, (noises @ noises.T).numpy(), divergence)


@pytest.mark.parametrize("name", toys.SCHEDULERS)
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_the_spread_of_a_linear_pair_is_found(name: str, spread: float) -> None:
    scheduler = toys.ready(toys.SCHEDULERS[name]())
    (found,) = fitted(toys.gaussian_pair(scheduler, spread))
    assert found.share == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(found.reactions, reaction(scheduler, T, spread))


def test_models_that_do_not_look_are_the_open_loop() -> None:
    (found,) = fitted(toys.blind_pair(toys.ready(toys.ddim())))
    assert found.share == pytest.approx(1, abs=1e-3)
    assert not found.reactions.any()


def test_equal_models_tell_nothing() -> None:
    response = scheduler_response(toys.ready(toys.ddim()), T)
    with refused(UnpredictableError, key="edge"):
        fit_directions(toys.ready(toys.ddim()), response, np.ones((2 * T, 2 * T)), np.zeros(T + 1))


def test_quality_falls_with_the_error() -> None:
    errors = np.array([0, 1e-6, 0.1, 2.0, 30.0, 1e300, np.inf])
    found = quality_of(errors, half_error=2.0)
    assert (np.diff(found[:-1]) < 0).all()
    assert found[0] == 1
    assert found[3] == 0.5
    assert found[-1] == 0


def test_the_half_error_meets_the_median_prompt() -> None:
    divergence, quality = np.array([1.0, 4.0, 9.0]), np.array([0.5, 0.8, 0.1])
    half = fit_half_error(divergence, quality)
    assert half == pytest.approx(1.0)  # of 1, 16 and 1
    assert quality_of(divergence, half)[0] == pytest.approx(quality[0])
    assert np.isfinite(fit_half_error(divergence, np.array([-0.1, 0.0, 1.0])))


# The tiny pair.


@pytest.fixture(scope="module")
def predictor(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Predictor:
    """With edge passes of two prompts of three."""
    edge_pass = EdgePass(pipe, prompts, tmp_path_factory.mktemp("along"), first=2)

    def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
        return edge_pass.make(adapter, Batches(2), lambda _: None)

    return Predictor.of(pipe.scheduler, "aligned", made, passes, "identity")


def candidates() -> list[Candidate]:
    grid = [ECDiffParams(3, k, alpha, s) for k in (1, 2, 4) for alpha in (0.2, 0.9) for s in (6, STEPS)]
    return [Candidate(params, name) for params in grid for name in ("gradient", "reuse")]


def test_qualities_of_the_tiny_pair(predictor: Predictor) -> None:
    assert predictor.qualities([Candidate(ECDiffParams.cloud_only(STEPS))]) == [1]
    found = predictor.qualities(candidates())
    assert all(0 <= one < 1 for one in found)
    assert predictor.qualities(candidates()[::-1]) == pytest.approx(found[::-1], abs=1e-6)
    assert [len(one) for one in predictor.squared_errors(candidates()[:3:2])] == [2, 3]
    hybrid = predictor.qualities([Candidate(ECDiffParams.hybrid(s)) for s in (0, 4, 8, STEPS)])
    assert hybrid == sorted(hybrid)
    assert predictor.qualities([]) == []


def test_the_edges_own_error_is_met(predictor: Predictor, made: Reference) -> None:
    edge_only = Candidate(ECDiffParams.edge_only())
    real = [float(ssim(one.edge[None], one.cloud[None])) for one in made.prompts[:2]]
    (found,) = predictor.qualities([edge_only])
    assert found == pytest.approx(np.mean(real), abs=0.1)


def test_it_ranks_real_generations(
    predictor: Predictor, pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, tmp_path: Path
) -> None:
    evaluator = Evaluator(pipe, prompts, made, Ledger(tmp_path / "ledger.sqlite"), batches=Batches(3))
    tried = [one for one in candidates() if one.estimator == "gradient"]
    measured = evaluator.measure(list(map(evaluator.resolve, tried)), lambda _: None)
    real = [np.mean([one.ssim for one in some if one.ssim is not None]) for some in measured]
    ranks = [np.argsort(np.argsort(values)) for values in (real, predictor.qualities(tried))]
    assert np.corrcoef(*ranks)[0, 1] > 0.7


def test_another_adapter_takes_its_own_pass(predictor: Predictor, calls: object) -> None:
    one, other = (
        Candidate(ECDiffParams(3, 2, 0.3, 6), handoff_adapter=adapter) for adapter in ("identity", "matched")
    )
    found = predictor.qualities([one, other])
    assert found[0] == pytest.approx(found[1], abs=1e-3)  # one schedule on both sides


# In a study.


SEEN: list[Sequence[float]] = []


def predicting(space: Any, context: Context) -> Search:
    """Greedy, which looks at predictions first."""
    SEEN.append(context.predict(space.grid))
    return greedy(space, context)


@pytest.fixture
def asking(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setitem(SEARCHES, "greedy", replace(SEARCHES["greedy"], make=predicting))
    return study


def test_a_search_that_predicts_has_the_pass_made_with_the_reference(
    asking: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEARCHES, "greedy", replace(SEARCHES["greedy"], predicts=True))
    outcome = asking("stage1")
    assert outcome.status == 0, outcome
    assert f"reference: {3 * STEPS} cloud and {6 * STEPS} edge calls" in outcome.out
    assert "edge along" not in outcome.out
    assert len(list(asking.outputs.rglob("*.along-identity.safetensors"))) == 3
    assert len(SEEN[-1]) == 6
    assert all(0 <= one <= 1 for one in SEEN[-1])


def test_predictions_can_be_asked_for_later(asking: Study) -> None:
    outcome = asking("stage1")
    assert outcome.status == 0, outcome
    assert f"reference: {3 * STEPS} cloud and {3 * STEPS} edge calls" in outcome.out
    assert f"edge along the cloud's trajectory: {3 * STEPS} cloud and {6 * STEPS} edge calls" in outcome.out
    first = SEEN[-1]
    again = asking("stage1")
    assert "edge along" not in again.out
    assert SEEN[-1] == first


def test_what_cannot_be_foretold_is_one_line(asking: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnpredictableError("Nothing.", key="scheduler")

    monkeypatch.setattr(Predictor, "of", refuse)
    assert one_line(asking("stage1")) == "error: Nothing."
