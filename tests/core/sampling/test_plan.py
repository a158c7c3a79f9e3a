"""What every step does: Table 5, Algorithm 1's rule, and what must hold for all parameters."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling import estimators, sampler
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Action, Handoff, Plan
from ecdiff_core.sampling.plan_of_params import plan

from ...refusals import refused

HANDOFFS: tuple[Handoff, ...] = ("aligned", "exact")


@st.composite
def runs(draw: st.DrawFn, most_steps: int = 60) -> tuple[ECDiffParams, int]:
    """Any parameters with any number of steps that they fit."""
    num_steps = draw(st.integers(1, most_steps))
    s = draw(st.integers(0, num_steps))
    p = draw(st.integers(0, s))
    k = draw(st.integers(0, 8)) if p >= 2 else 0
    return ECDiffParams(p, k, draw(st.sampled_from([0.1, 0.5, 1.0])), s), num_steps


@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize(
    ("p", "k", "alpha", "s", "calls"),
    [
        pytest.param(7, 2, 0.3, 34, (16, 18, 16), id="SD-v1.4 + BK-SDM-Small"),
        pytest.param(7, 2, 0.3, 37, (17, 20, 13), id="SD-v1.4 + BK-SDM-Tiny"),
        pytest.param(6, 5, 0.2, 30, (10, 20, 20), id="SDXL-base + SSD-1B"),
        pytest.param(6, 5, 0.2, 36, (11, 25, 14), id="SDXL-base + Segmind-Vega"),
        pytest.param(10, 3, 0.2, 38, (17, 21, 12), id="CogVideoX-5B + CogVideoX-2B"),
    ],
)
def test_table_5(p: int, k: int, alpha: float, s: int, calls: tuple[int, ...], handoff: Handoff) -> None:
    steps = plan(ECDiffParams(p, k, alpha, s), 50, handoff)
    assert (steps.cloud_calls, steps.approximated, steps.edge_calls) == calls
    assert steps.handoff_step == s


def test_step_by_step() -> None:
    params = ECDiffParams(p=3, k=2, alpha=0.3, s=7)
    assert "".join(a.value for a in plan(params, 12).steps) == "CCCAACAACEEE"
    assert "".join(a.value for a in plan(params, 12, "exact").steps) == "CCCAACAEEEEE"


@pytest.mark.parametrize(
    ("s", "aligned"), [(7, 7), (8, 10), (30, 31), (31, 31), (32, 34), (35, 37), (40, 40), (49, 49), (50, 50)]
)
def test_aligned_waits_for_the_correction_and_exact_cuts(s: int, aligned: int) -> None:
    params = ECDiffParams(p=7, k=2, alpha=0.3, s=s)
    assert plan(params, 50).handoff_step == aligned
    assert plan(params, 50, "exact").handoff_step == s


@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize(
    ("params", "schedule", "hands_over"),
    [
        (ECDiffParams.cloud_only(50), "50C", False),
        (ECDiffParams.edge_only(), "50E", False),
        (ECDiffParams.hybrid(40), "40C10E", True),
        (ECDiffParams(p=5, k=0, alpha=0.5, s=40), "40C10E", True),
    ],
)
def test_baselines(params: ECDiffParams, schedule: str, hands_over: bool, handoff: Handoff) -> None:
    steps = plan(params, 50, handoff)
    assert steps.schedule == schedule
    assert steps.hands_over is hands_over


def test_prints_its_calls() -> None:
    steps = plan(ECDiffParams(p=7, k=2, alpha=0.3, s=34), 50)
    assert str(steps) == "50 steps = 16 cloud + 18 approximated + 16 edge"
    assert steps.schedule == "7C" + "2A1C" * 9 + "16E"


@pytest.mark.parametrize(
    ("num_steps", "handoff", "about"),
    [
        (33, "aligned", {"key": "s", "got": {"s": 34, "num_inference_steps": 33}}),
        (33, "exact", {"key": "s", "got": {"s": 34, "num_inference_steps": 33}}),
        (0, "aligned", {"key": "num_inference_steps", "got": 0, "expected": ">= 1"}),
        (-5, "aligned", {"key": "num_inference_steps", "got": -5, "expected": ">= 1"}),
        (50, "exakt", {"key": "handoff", "got": "exakt", "nearest": "exact"}),
        (50, None, {"key": "handoff", "got": None, "expected": ["aligned", "exact"]}),
    ],
)
def test_refuses(num_steps: int, handoff: Handoff, about: dict[str, Any]) -> None:
    with refused(ParamsError, **about):
        plan(ECDiffParams(p=7, k=2, alpha=0.3, s=34), num_steps, handoff)


@given(run=runs(), handoff=st.sampled_from(HANDOFFS))
def test_one_action_a_step(run: tuple[ECDiffParams, int], handoff: Handoff) -> None:
    params, num_steps = run
    steps = plan(params, num_steps, handoff)
    assert len(steps.steps) == steps.num_steps == num_steps
    assert steps.cloud_calls + steps.approximated + steps.edge_calls == num_steps
    assert steps.hands_over == (Action.EDGE in steps.steps and steps.steps[0] is not Action.EDGE)


@given(run=runs(), handoff=st.sampled_from(HANDOFFS))
def test_rule_of_algorithm_1(run: tuple[ECDiffParams, int], handoff: Handoff) -> None:
    params, num_steps = run
    steps = plan(params, num_steps, handoff)
    for i, action in enumerate(steps.steps):
        if i >= steps.handoff_step:
            assert action is Action.EDGE
        elif i < params.p or (i + 1 - params.p) % (params.k + 1) == 0:
            assert action is Action.CLOUD
        else:
            assert action is Action.APPROX
    if params.k == 0:
        assert steps.approximated == 0
    if params.s == 0:
        assert steps.edge_calls == num_steps


@given(run=runs())
def test_handoff(run: tuple[ECDiffParams, int]) -> None:
    params, num_steps = run
    assert plan(params, num_steps, "exact").handoff_step == params.s
    aligned = plan(params, num_steps)
    after_corrections = [params.p + m * (params.k + 1) for m in range(num_steps + 1)]
    first = next(step for step in after_corrections if step >= params.s)
    assert aligned.handoff_step == min(first, num_steps)
    if aligned.handoff_step > 0 and first <= num_steps:
        assert aligned.steps[aligned.handoff_step - 1] is Action.CLOUD


@given(run=runs(), handoff=st.sampled_from(HANDOFFS))
def test_schedule_says_every_step(run: tuple[ECDiffParams, int], handoff: Handoff) -> None:
    steps = plan(*run, handoff)
    segments = re.findall(r"(\d+)([CAE])", steps.schedule)
    assert "".join(count + action for count, action in segments) == steps.schedule
    assert Plan(tuple(Action(action) for count, action in segments for _ in range(int(count)))) == steps
    assert all(one != other for (_, one), (_, other) in pairwise(segments))


def _noises(steps: Plan, estimator: estimators.Estimator, factors: Factors) -> Tensor:
    """Every noise of a trajectory under nonlinear toy models, so that no estimate is exact by chance."""

    def cloud(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x + t / 150)

    def edge(x: Tensor, t: Tensor) -> Tensor:
        return torch.cos(2 * x - t / 170)

    used: list[Tensor] = []
    state = sampler.start(torch.tensor([[0.3, -1.1]]), DDIMScheduler(clip_sample=False), steps.num_steps)
    sampler.advance(state, steps, cloud, edge, estimator, factors, on_step=lambda *step: used.append(step[2]))
    return torch.stack(used)


ESTIMATES = {name: one for name, one in estimators.ESTIMATORS.items() if not one.fills_with_edge}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATES.values(), ids=list(ESTIMATES))


@st.composite
def any_runs(draw: st.DrawFn, most_steps: int = 14) -> tuple[ECDiffParams, int]:
    """Params of every kind: the paper's, thinned edge sides, residuals, both models' steps listed."""
    steps = draw(st.integers(3, most_steps))
    residual = draw(st.sampled_from([0.0, 0.5, 1.0]))
    alpha = draw(st.sampled_from([0.25, 0.75]))
    if draw(st.booleans()):
        begin = (
            ["C", draw(st.sampled_from("CE"))]
            if residual
            else draw(st.sampled_from(["CC", "EE", "EC", "CE"]))
        )
        letters = [*begin, *draw(st.lists(st.sampled_from("CEAAA"), min_size=steps - 2, max_size=steps - 2))]
        cloud, edge = ([i for i, one in enumerate(letters) if one == which] for which in "CE")
        return ECDiffParams.interleaved(cloud, edge, alpha, residual), steps
    params, _ = draw(runs(steps))
    s = max(1, min(params.s, steps)) if residual else min(params.s, steps)
    p, k = (min(params.p, s), params.k) if min(params.p, s) >= 2 else (0, 0)
    more = {"edge_k": draw(st.integers(0, 3)), "edge_first": draw(st.integers(1, 3))}
    return ECDiffParams(p, k, alpha, s, edge_last=draw(st.integers(0, 2)), residual=residual, **more), steps


def _planned(run: tuple[ECDiffParams, int], handoff: Handoff, estimator: estimators.Estimator) -> Plan:
    """Of params that this estimator has enough noises for, and takes."""
    try:
        return plan(*run, handoff, estimator)
    except ParamsError:
        reject()


@every_estimator
@settings(max_examples=60)
@given(run=any_runs(), handoff=st.sampled_from(HANDOFFS), end=st.integers(1, 14))
def test_uses_alpha_means_that_another_alpha_gives_another_trajectory(
    estimator: estimators.Estimator, run: tuple[ECDiffParams, int], handoff: Handoff, end: int
) -> None:
    steps = _planned(run, handoff, estimator)
    residual = run[0].residual
    low, high = (_noises(steps, estimator, Factors(alpha, residual))[:end] for alpha in (0.25, 0.75))
    assert steps.until(end).uses_alpha(estimator) is not torch.equal(low, high)


@every_estimator
@settings(max_examples=60)
@given(run=any_runs(), handoff=st.sampled_from(HANDOFFS), end=st.integers(1, 14))
def test_residual_steps_are_those_that_a_residual_changes(
    estimator: estimators.Estimator, run: tuple[ECDiffParams, int], handoff: Handoff, end: int
) -> None:
    steps = _planned(run, handoff, estimator)
    low, high = (_noises(steps, estimator, Factors(0.5, residual))[:end] for residual in (0.25, 0.75))
    assert bool(steps.until(end).residual_steps) is not torch.equal(low, high)


@every_estimator
@settings(max_examples=60)
@given(run=any_runs(), handoff=st.sampled_from(HANDOFFS))
def test_any_plan_says_every_step_and_every_call(
    estimator: estimators.Estimator, run: tuple[ECDiffParams, int], handoff: Handoff
) -> None:
    steps = _planned(run, handoff, estimator)
    assert Plan.from_schedule(steps.schedule) == steps
    assert steps.cloud_calls + steps.approximated + steps.edge_steps == steps.num_steps
    called = [model for step in range(steps.num_steps) for model in steps.models(step)]
    assert called.count(Action.CLOUD) == steps.cloud_calls
    assert called.count(Action.EDGE) == steps.edge_calls
    count = {"CLOUD": 0, "EDGE": 0}

    def model(name: str) -> sampler.Denoiser:
        def call(x: Tensor, t: Tensor) -> Tensor:
            count[name] += 1
            return torch.zeros_like(x)

        return call

    state = sampler.start(torch.ones(1, 2), DDIMScheduler(), steps.num_steps)
    sampler.advance(state, steps, model("CLOUD"), model("EDGE"), estimator, run[0].factors(estimator))
    assert count == {"CLOUD": steps.cloud_calls, "EDGE": steps.edge_calls}


def test_the_edge_s_side_is_thinned_as_the_cloud_s() -> None:
    steps = plan(ECDiffParams(p=3, k=5, alpha=0.1, s=33, edge_k=5, residual=1.0), 50)
    assert steps.schedule == "3C5A1C5A1C5A1C5A1C5A1B2M5A1M5A1M1A2M"
    assert (steps.cloud_calls, steps.edge_steps, steps.edge_calls, steps.handoff_step) == (8, 6, 7, 33)
    assert str(steps) == "50 steps = 8 cloud + 36 approximated + 6 edge, 1 more edge call for the residual"
    one_end = ECDiffParams(0, 0, 0.1, 2, edge_k=3, edge_first=1, edge_last=0)
    assert plan(one_end, 10).schedule == "2C1E3A1E3A"
    assert plan(ECDiffParams(0, 0, 0.1, 2, edge_k=9), 5).schedule == "2C3E"  # the ends meet


def test_both_models_steps_listed() -> None:
    params = ECDiffParams.interleaved([0, 1, 5, 8], [2, 3, 6, 9], alpha=0.3, residual=1.0)
    steps = plan(params, 10)
    assert steps.schedule == "1C1B2M1A1B1M1A1B1M"
    assert (params.s, steps.handoff_step) == (9, 9)
    assert (steps.cloud_calls, steps.edge_steps, steps.edge_calls) == (4, 4, 7)
    assert steps.both_asked == {1: 2, 5: 6, 8: 9}
    edge_first = plan(ECDiffParams.interleaved([4, 5], [0, 1, 2], alpha=0.3), 6)
    assert (edge_first.schedule, edge_first.crossings) == ("3E1A2C", 4)
    assert edge_first.handoff_step == 6


@pytest.mark.parametrize(
    ("schedule", "crossings", "exchanges", "tensors"),
    [
        ("5C", 0, 0, 0),
        ("5E", 0, 0, 0),
        ("2C3E", 1, 1, 1),
        ("1C1B3M", 1, 1, 2),  # the last cloud call's noise too
        ("2C1E1A1E", 1, 1, 2),  # the gradient needs a noise of the cloud's
        ("1C1B1M1A1M", 1, 1, 2),
        ("2C2A1B2A3M", 1, 1, 3),  # and the latents of now
        ("2C2E1A1C1E", 3, 2, 3),  # up and down once more
        ("2C1E2C1E", 5, 3, 5),
        ("2E1C1E", 2, 1, 2),
        ("2C2A1C2A", 0, 0, 0),
    ],
)
def test_crossings_of_the_link(schedule: str, crossings: int, exchanges: int, tensors: int) -> None:
    steps = Plan.from_schedule(schedule)
    assert (steps.crossings, steps.exchanges, steps.tensors_sent) == (crossings, exchanges, tensors)
    assert steps.hands_over is (crossings > 0)


def test_who_does_a_step_on_two_machines() -> None:
    steps = Plan.from_schedule("2C1A1C1E2A1C1A1E")
    assert "".join("ec"[steps.on_cloud(i)] for i in range(10)) == "cccceeecee"


@pytest.mark.parametrize(
    ("params", "about"),
    [
        (ECDiffParams(0, 0, 0.3, 0, residual=1.0), {"key": "a cloud call", "got": "10M"}),
        (ECDiffParams.interleaved([2], [0, 1], 0.3, 1.0), {"key": "a cloud call", "got": "2M1C7A"}),
        (
            ECDiffParams.interleaved([0], [3], 0.3),
            {"key": "steps", "got": "1C2A1E6A", "expected": "real at [0, 1]"},
        ),
        (ECDiffParams.interleaved([0, 1], [12], 0.3), {"key": "edge_schedule", "expected": "within 0 … 9"}),
    ],
)
def test_plans_that_cannot_be(params: ECDiffParams, about: dict[str, Any]) -> None:
    with refused(ParamsError, **about):
        plan(params, 10)


@pytest.mark.parametrize(
    ("params", "key"),
    [
        (ECDiffParams(2, 1, 0.3, 6, edge_k=1), "edge_k"),
        (ECDiffParams.interleaved([0, 1], [4], 0.3), "edge_schedule"),
        (ECDiffParams(2, 1, 0.3, 6, residual=0.5), "residual"),
    ],
)
def test_the_estimator_edge_leaves_nothing_to_other_keys(params: ECDiffParams, key: str) -> None:
    with refused(ParamsError, key=key, got=getattr(params, key)):
        plan(params, 10, "aligned", estimators.get_estimator("edge"))


def test_the_estimator_edge_is_edge_steps_with_the_residual() -> None:
    edge = estimators.get_estimator("edge")
    params = ECDiffParams(3, 2, 0.3, 9)
    steps = plan(params, 12, "aligned", edge)
    assert steps.schedule == "2C1B2M1B2M1C3E"  # the last real step has no window after it
    assert (steps.cloud_calls, steps.approximated, steps.edge_steps, steps.edge_calls) == (5, 0, 7, 9)
    assert (steps.handoff_step, steps.crossings) == (9, 5)
    assert params.factors(edge) == Factors(0.3, 0.3)
    listed = ECDiffParams.interleaved([0, 1, 2, 5, 8], [3, 4, 6, 7, 9, 10, 11], 0.3, 0.3)
    assert plan(listed, 12).schedule == "2C1B2M1B2M1B3M"
    called = ["".join(model.value for model in steps.models(step)) for step in range(12)]
    assert called == ["C", "C", "C", "EE", "E", "C", "EE", "E", "C", "E", "E", "E"]
    assert steps.until(6).schedule == "2C1B2M1C"
    assert plan(ECDiffParams(3, 2, 0.3, 9, residual=0.3), 12, "aligned", edge) == plan(listed, 12)
    exact = plan(ECDiffParams(3, 2, 0.3, 5), 12, "exact", edge)
    assert exact.schedule == "2C1B2M7E"
