"""Params moved to other settings: real steps keep their place in the noise."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ecdiff_core.config import PairSpec, Sampling, TunedConfig
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.forecast.error_growth import Array
from ecdiff_tune.forecast.transferred import log_snr, transferred

PAIR = PairSpec("own", ModelRef("cloud"), ModelRef("edge"))
MIXED = ECDiffParams.interleaved([0, 1, 20, 35], [2, 10, 48, 49], alpha=0.3, residual=1.0)


def config(params: ECDiffParams, steps: int = 50, estimator: str = "gradient") -> TunedConfig:
    return TunedConfig(PAIR, params, Sampling(steps, estimator=estimator))


def places(steps: int, scheduler: type = DDIMScheduler) -> Array:
    made = scheduler()
    made.set_timesteps(steps)
    return log_snr(made, steps)


def test_log_snr_is_the_schedulers() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    abar = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    np.testing.assert_allclose(places(10), 0.5 * np.log(abar / (1 - abar)), rtol=1e-6)
    flow = places(10, FlowMatchEulerDiscreteScheduler)
    assert flow[0] == pytest.approx(np.log(2.0**-12))  # pure noise
    assert (np.diff(flow) > 0).all()
    assert (np.diff(places(10, DPMSolverMultistepScheduler)) > 0).all()


@pytest.mark.parametrize(
    "params",
    [
        ECDiffParams(3, 3, 0.1, 31, edge_k=5, residual=1.0),
        ECDiffParams(7, 2, 0.3, 34),
        ECDiffParams.scheduled([0, 1, 2, 6, 13, 25, 40], alpha=0.5, s=50),
        MIXED,
    ],
)
def test_at_the_same_settings_a_config_stays_what_it_is(params: ECDiffParams) -> None:
    own = plan(params, 50)
    found = transferred(config(params), places(50), places(50), range(30, 41), "aligned")
    assert own.letters in {plan(one, 50).letters for one in found}
    assert {one.alpha for one in found} == {params.alpha}
    assert {one.residual for one in found} == {params.residual}


@pytest.mark.parametrize("steps", [20, 28, 75])
@pytest.mark.parametrize("params", [ECDiffParams(3, 3, 0.1, 31, edge_k=5, residual=1.0), MIXED])
def test_every_real_step_goes_to_the_nearest_noise(params: ECDiffParams, steps: int) -> None:
    theirs, ours = places(50), places(steps, DPMSolverMultistepScheduler)
    found = transferred(config(params), theirs, ours, (round(0.62 * steps),), "aligned")
    later = [step for step in params.real_steps(50) if step > 1]  # the estimator needs the first two
    nearest = {0, 1, *np.abs(ours[:, None] - theirs[later]).argmin(axis=0).tolist()}
    merged = [one for one, way in found.items() if way == "merged"]
    assert merged
    for one in merged:
        assert set(one.schedule or ()) == {step for step in nearest if step < one.s}


def test_apart_keeps_every_call_where_merged_saves_some() -> None:
    found = transferred(config(MIXED), places(50), places(12), (), "aligned")
    calls = {way: plan(one, 12).cloud_calls + plan(one, 12).edge_steps for one, way in found.items()}
    assert calls["apart"] == 8
    assert calls["merged"] < 8


def test_the_edges_thinning_follows_the_number_of_steps() -> None:
    params = ECDiffParams(3, 3, 0.1, 31, edge_k=5, residual=1.0)
    for steps, edge_k in ((100, 11), (50, 5), (25, 2)):
        found = transferred(config(params), places(50), places(steps), (round(0.6 * steps),), "aligned")
        assert {one.edge_k for one in found} == {edge_k}


@pytest.mark.parametrize("s", [0, 50])
def test_one_model_alone_stays_alone(s: int) -> None:
    alone = ECDiffParams(0, 0, 1.0, s)
    found = transferred(config(alone), places(50), places(20), (), "aligned")
    assert {0: "20E", 50: "20C"}[s] in {plan(one, 20).schedule for one in found}


def test_what_gives_no_plan_is_left_out() -> None:
    ways = transferred(config(MIXED), places(50), places(1), (), "aligned")
    assert [(plan(one, 1).schedule, way) for one, way in ways.items()] == [("1C", "apart")]
