"""What every step does: Table 5, Algorithm 1's rule, and what must hold for all parameters."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling import estimators, sampler
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Action, Handoff, Plan, plan

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
    ("num_steps", "handoff", "message"),
    [
        (33, "aligned", r"s <= T, the number of steps, got s=34 with 33 steps"),
        (33, "exact", r"s <= T, the number of steps, got s=34 with 33 steps"),
        (0, "aligned", r"at least one step, got 0"),
        (-5, "aligned", r"at least one step, got -5"),
        (50, "exakt", r"Unknown handoff 'exakt': choose from aligned, exact \(did you mean exact\?\)"),
        (50, None, r"Unknown handoff None"),
    ],
)
def test_refuses(num_steps: int, handoff: Handoff, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
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
    pieces = re.findall(r"(\d+)([CAE])", steps.schedule)
    assert "".join(count + action for count, action in pieces) == steps.schedule
    assert Plan(tuple(Action(action) for count, action in pieces for _ in range(int(count)))) == steps
    assert all(one != other for (_, one), (_, other) in pairwise(pieces))


def _noises(steps: Plan, estimator: estimators.Estimator, alpha: float) -> Tensor:
    """Every noise of a trajectory under nonlinear toy models, so that no estimate is exact by chance."""

    def cloud(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x + t / 150)

    def edge(x: Tensor, t: Tensor) -> Tensor:
        return torch.cos(2 * x - t / 170)

    used: list[Tensor] = []
    state = sampler.start(torch.tensor([[0.3, -1.1]]), DDIMScheduler(clip_sample=False), steps.num_steps)
    sampler.advance(state, steps, cloud, edge, estimator, alpha, on_step=lambda *step: used.append(step[2]))
    return torch.stack(used)


every_estimator = pytest.mark.parametrize(
    "estimator", estimators.ESTIMATORS.values(), ids=list(estimators.ESTIMATORS)
)


@every_estimator
@settings(max_examples=40)
@given(run=runs(most_steps=20), handoff=st.sampled_from(HANDOFFS), end=st.integers(1, 20))
def test_uses_alpha_means_that_another_alpha_gives_another_trajectory(
    estimator: estimators.Estimator, run: tuple[ECDiffParams, int], handoff: Handoff, end: int
) -> None:
    steps = plan(*run, handoff, estimator)
    low, high = (_noises(steps, estimator, alpha)[:end] for alpha in (0.25, 0.75))
    assert estimator.uses_alpha_in(steps.until(end).windows) is not torch.equal(low, high)


@pytest.mark.parametrize(
    ("params", "handoff", "windows"),
    [
        (ECDiffParams(p=3, k=2, alpha=0.3, s=6), "aligned", 1),  # 3C2A1C6E
        (ECDiffParams(p=3, k=2, alpha=0.3, s=7), "aligned", 2),
        (ECDiffParams(p=3, k=2, alpha=0.3, s=7), "exact", 2),  # 3C2A1C1A5E
        (ECDiffParams(p=3, k=2, alpha=0.3, s=6), "exact", 1),
        (ECDiffParams.hybrid(6), "aligned", 0),
    ],
)
def test_windows(params: ECDiffParams, handoff: Handoff, windows: int) -> None:
    steps = plan(params, 12, handoff)
    assert steps.windows == windows
    heeds = {name: one.uses_alpha_in(steps.windows) for name, one in estimators.ESTIMATORS.items()}
    assert heeds == {
        "gradient": windows >= 2,  # after the first correction (eq. 6)
        "reuse": False,
        "secant": windows >= 1,
        "newton2": windows >= 1,
        "edge": windows >= 1,
    }


def test_edge_calls_beside_the_cloud_s_steps() -> None:
    steps = plan(ECDiffParams(3, 2, 0.3, 9), 12, "aligned", estimators.get_estimator("edge"))
    assert steps.schedule == "2C1B2M1B2M1C3E"  # the last real step has no window after it
    assert steps.steps == plan(ECDiffParams(3, 2, 0.3, 9), 12).steps
    assert (steps.cloud_calls, steps.approximated, steps.edge_steps, steps.edge_calls) == (5, 4, 3, 9)
    assert steps.handoff_step == 9
    text = "12 steps = 5 cloud + 4 approximated + 3 edge, 6 more edge calls beside the cloud's steps"
    assert str(steps) == text
    called = ["".join(model.value for model in steps.models(step)) for step in range(12)]
    assert called == ["C", "C", "CE", "E", "E", "CE", "E", "E", "C", "E", "E", "E"]
    assert steps.until(6).schedule == "2C1B2M1B"
    exact = plan(ECDiffParams(3, 2, 0.3, 5), 12, "exact", estimators.get_estimator("edge"))
    assert exact.schedule == "2C1B2M7E"


@given(run=runs(), handoff=st.sampled_from(HANDOFFS))
def test_edge_calls_stand_in_the_schedule(run: tuple[ECDiffParams, int], handoff: Handoff) -> None:
    steps = plan(*run, handoff, estimators.get_estimator("edge"))
    count = dict.fromkeys("CABME", 0)
    for number, letter in re.findall(r"(\d+)([CABME])", steps.schedule):
        count[letter] += int(number)
    assert count["A"] == 0
    assert steps.approximated == count["M"]
    assert steps.cloud_calls == count["C"] + count["B"]
    assert steps.edge_calls == count["E"] + count["M"] + count["B"]
    assert count["B"] == steps.windows
