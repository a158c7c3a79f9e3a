"""The estimators: eq. 3-6 by hand, exactness, precision, and alpha over a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

from ecdiff_core.errors import ConfigError
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import NoiseState

from ...refusals import refused

GRADIENT, REUSE = estimators.get_estimator("gradient"), estimators.get_estimator("reuse")
SECANT, NEWTON2 = estimators.get_estimator("secant"), estimators.get_estimator("newton2")
ESTIMATES = {name: one for name, one in estimators.ESTIMATORS.items() if not one.fills_with_edge}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATES.values(), ids=list(ESTIMATES))


def one(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A noise of one number."""
    return torch.full((1, 1, 1, 1), value, dtype=dtype)


def number(tensor: Tensor | None) -> float:
    """The number of such a noise."""
    assert tensor is not None
    return tensor.item()


def observed(*values: float) -> NoiseState:
    """The state after real noises."""
    state = estimators.init()
    for value in values:
        state = GRADIENT.observe(state, one(value))
    return state


def estimates(
    estimator: estimators.Estimator, actions: str, real: list[float], alpha: estimators.Alpha = 1.0
) -> list[float]:
    """The noises of the approximated steps (A) between real ones (C), which come from a list by step."""
    state, found = estimators.init(), []
    for action, value in zip(actions, real, strict=True):
        if action == "C":
            state = estimator.observe(state, one(value))
        else:
            state = estimator.estimate(state, alpha)
            found.append(number(state.eps))
    return found


def test_equations_3_to_6_by_hand() -> None:
    state = observed(10.0, 1.0, 3.0)
    assert (number(state.eps), number(state.delta), state.ahead) == (3.0, 2.0, 0)
    state = GRADIENT.estimate(state, 0.5)
    assert (number(state.eps), number(state.delta), state.ahead) == (5.0, 2.0, 1)  # eq. 4, not scaled
    state = GRADIENT.estimate(state, 0.5)
    assert (number(state.eps), number(state.delta), state.ahead) == (7.0, 2.0, 2)  # eq. 5: delta stays
    state = GRADIENT.observe(state, one(8.0))
    assert (number(state.eps), number(state.delta), state.ahead) == (8.0, 1.0, 0)  # eq. 6 before alpha
    state = GRADIENT.estimate(GRADIENT.estimate(state, 0.5), 0.5)
    assert number(state.eps) == 9.0  # 8 + 2 * 0.5 * 1
    state = GRADIENT.observe(state, one(5.0))
    assert number(GRADIENT.estimate(state, 0.25).eps) == 4.0  # 5 + 0.25 * (5 - 9)


def test_before_two_noises_there_is_no_gradient() -> None:
    assert estimators.init() == NoiseState(eps=None, delta=None, scaled=False, ahead=0)
    assert observed(4.0).delta is None
    for state in (estimators.init(), observed(4.0)):
        with pytest.raises(ValueError, match="two observed noises"):
            GRADIENT.estimate(state, 0.3)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("p", [2, 3, 7])
def test_noise_linear_in_the_step_is_exact_in_the_first_window(p: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Sixteenths, so that no sum is rounded and equality can be exact.
    offset, slope = torch.randint(-64, 64, (2, 2, 4, 8, 8), generator=generator) / 16
    state = estimators.init()
    for step in range(p):
        state = GRADIENT.observe(state, offset + slope * step)
    for step in range(p, p + k):
        state = GRADIENT.estimate(state, 0.3)
        assert torch.equal(state.eps, offset + slope * step)


def test_alpha_does_not_touch_the_first_gradient() -> None:
    state = observed(0.1, 0.7)
    assert number(GRADIENT.estimate(state, 0.1).eps) == number(GRADIENT.estimate(state, 0.9).eps)


def test_history_is_float32_whatever_the_model_computes_in() -> None:
    grain = 2**-10  # the spacing of float16 above 1
    state = GRADIENT.observe(estimators.init(), one(1.0, torch.float16))
    state = GRADIENT.observe(state, one(1.0 + grain, torch.float16))
    state = GRADIENT.estimate(state, 0.3)
    assert state.eps is not None
    assert state.eps.dtype is torch.float32
    state = GRADIENT.observe(state, one(1.0 + 3 * grain, torch.float16))
    state = GRADIENT.estimate(state, 0.3)
    assert state.eps is not None
    assert state.delta is not None
    assert state.eps.dtype is state.delta.dtype is torch.float32
    assert number(state.delta) == pytest.approx(grain, rel=1e-6)
    assert number(state.eps) == pytest.approx(1 + 3.3 * grain, rel=1e-7)  # in float16: 1 + 3 grains
    assert number(state.eps) != number(state.eps.half().float())
    assert REUSE.observe(estimators.init(), one(1.0, torch.bfloat16)).eps.dtype is torch.float32


def test_alpha_over_the_batch_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(5, 3, 4, 8, 8, generator=generator)
    alphas = [0.1, 0.3, 0.9]

    def trace(noises: Tensor, alpha: estimators.Alpha) -> list[Tensor]:
        state, seen = estimators.init(), []
        for i in range(len(noises)):
            state = GRADIENT.observe(state, noises[i])
            if i > 0:
                state = GRADIENT.estimate(GRADIENT.estimate(state, alpha), alpha)
                seen.append(state.eps)
        return seen

    together = trace(noises, torch.tensor(alphas))
    for sample, alpha in enumerate(alphas):
        alone = trace(noises[:, sample : sample + 1], alpha)
        assert all(torch.equal(a, t[sample : sample + 1]) for a, t in zip(alone, together, strict=True))
    for all_in_one, single in zip(trace(noises, torch.tensor(0.3)), trace(noises, 0.3), strict=True):
        assert torch.equal(all_in_one, single)


def test_alpha_of_another_batch_is_refused() -> None:
    state = GRADIENT.observe(GRADIENT.estimate(observed(1.0, 2.0), 0.3), one(3.0))
    with pytest.raises(ValueError, match=r"Expected alpha of shape \(1,\), got \(2,\)"):
        GRADIENT.estimate(state, torch.tensor([0.1, 0.2]))


def test_reuse_repeats_the_last_real_noise() -> None:
    state = REUSE.observe(estimators.init(), one(1.0))
    state = REUSE.observe(state, one(3.0))
    for _ in range(2):
        state = REUSE.estimate(state, 0.3)
        assert number(state.eps) == 3.0
        assert state.ahead > 0
    state = REUSE.observe(state, one(8.0))
    assert (number(state.eps), state.ahead) == (8.0, 0)
    assert number(REUSE.estimate(state, 0.3).eps) == 8.0
    with pytest.raises(ValueError, match="an observed noise"):
        REUSE.estimate(estimators.init(), 0.3)


def test_secant_by_hand() -> None:
    # Real noises 2, 6 at steps 0, 1; then 12 at step 4, from a gap of 3; then 10 at step 5, from a gap of 1.
    real = [2.0, 6.0, 0, 0, 12.0, 10.0, 0]
    assert estimates(SECANT, "CCAACCA", real, 0.5) == [6 + 0.5 * 4, 6 + 0.5 * 8, 10 - 0.5 * 2]
    assert estimates(SECANT, "CCAACAA", [2.0, 6.0, 0, 0, 12.0, 0, 0], 0.5) == [8, 10, 12 + 1, 12 + 2]


def test_newton2_by_hand() -> None:
    # Steps 0, 1, 4: slopes 4 and (12 - 6) / 3 = 2, curvature (2 - 4) / 4 = -0.5. At step 5 the correction is
    # 1 * 2 + 1 * 4 * -0.5 = 0, at step 6 2 * 2 + 2 * 5 * -0.5 = -1. The first window has but two noises.
    real = [2.0, 6.0, 0, 0, 12.0, 0, 0]
    assert estimates(NEWTON2, "CCAACAA", real, 1.0) == [10, 14, 12, 11]
    assert estimates(NEWTON2, "CCAACAA", real, 0.5) == [8, 10, 12, 11.5]
    # Three in a row, 1, 4, 9: on to 16 and 25; alpha scales what is added to 9, both terms alike.
    assert estimates(NEWTON2, "CCCAA", [1.0, 4.0, 9.0, 0, 0], 1.0) == [16, 25]
    assert estimates(NEWTON2, "CCCAA", [1.0, 4.0, 9.0, 0, 0], 0.25) == [9 + 7 / 4, 9 + 16 / 4]


def test_the_residual_by_hand() -> None:
    edge, residual = torch.tensor([[6.0], [7.0]]), torch.tensor([[4.0], [-2.0]])
    assert estimators.add_residual(edge, residual, 0.5).tolist() == [[8.0], [6.0]]
    assert estimators.add_residual(edge, residual, torch.tensor([1.0, 0.0])).tolist() == [[10.0], [7.0]]
    assert estimators.add_residual(edge.half(), residual, 0.5).dtype is torch.float32


PATTERN = "CCAAACACAAAACCA"
"""Windows of 3, 1, 4 and 1 steps: gaps of 4, 2, 5 and 1."""


@pytest.mark.parametrize(
    ("estimator", "polynomial", "from_step"),
    [
        (SECANT, lambda i: 3 * i - 40, 0),
        (NEWTON2, lambda i: 3 * i - 40, 0),
        (NEWTON2, lambda i: i * i - 7 * i + 2, 5),  # from the third real noise on
    ],
    ids=["secant", "newton2", "newton2, quadratic"],
)
def test_polynomials_are_exact_whatever_the_gaps(
    estimator: estimators.Estimator, polynomial: Callable[[int], float], from_step: int
) -> None:
    real = [float(polynomial(step)) for step in range(len(PATTERN))]
    found = dict(
        zip(
            [step for step, action in enumerate(PATTERN) if action == "A"],
            estimates(estimator, PATTERN, real),
            strict=True,
        )
    )
    for step, value in found.items():
        if step > from_step:
            assert value == pytest.approx(real[step], abs=1e-4), step


@every_estimator
def test_alpha_over_a_batch(estimator: estimators.Estimator) -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(len(PATTERN), 3, 4, 8, 8, generator=generator)

    def trace(rows: slice, alpha: estimators.Alpha) -> list[Tensor]:
        state, seen = estimators.init(), []
        for step, action in enumerate(PATTERN):
            if action == "C":
                state = estimator.observe(state, cloud[step, rows])
            else:
                state = estimator.estimate(state, alpha)
            assert state.eps is not None
            seen.append(state.eps)
        return seen

    alphas = [0.1, 0.3, 0.9]
    together = trace(slice(None), torch.tensor(alphas))
    for row, alpha in enumerate(alphas):
        alone = trace(slice(row, row + 1), alpha)
        assert all(torch.equal(a, t[row : row + 1]) for a, t in zip(alone, together, strict=True))


@every_estimator
def test_every_history_is_float32(estimator: estimators.Estimator) -> None:
    grain = 2**-10  # the spacing of float16 above 1
    state = estimators.init()
    for step, action in enumerate("CCCAACA"):
        told = one(1.0 + step * grain, torch.float16)
        state = estimator.observe(state, told) if action == "C" else estimator.estimate(state, 0.3)
        tensors = [*state.real, *(x for x in vars(state).values() if isinstance(x, Tensor))]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
    fine = {"gradient", "secant", "newton2"}  # of these the last noise is no number of float16
    if estimator in [estimators.ESTIMATORS[name] for name in fine]:
        assert number(state.eps) != number(state.eps.half().float())


def real_noises(state: NoiseState) -> list[float]:
    return [number(eps) for eps in state.real]


def test_a_state_keeps_three_real_noises_and_their_gaps_and_then_what_is_needed() -> None:
    state = observed(1.0, 2.0, 3.0, 4.0)
    assert (real_noises(state), state.gaps) == ([4, 3, 2], (1, 1))
    kept = {name: one.estimate(state, 0.5) for name, one in ESTIMATES.items()}
    assert {name: (real_noises(one), one.gaps) for name, one in kept.items()} == {
        "gradient": ([], ()),
        "reuse": ([], ()),
        "secant": ([4, 3], (1,)),
        "newton2": ([4, 3, 2], (1, 1)),
    }
    again = NEWTON2.observe(NEWTON2.estimate(kept["newton2"], 0.5), one(7.0))
    assert (real_noises(again), again.gaps) == ([7, 4, 3], (3, 1))
    again = GRADIENT.observe(kept["gradient"], one(7.0))
    assert (real_noises(again), again.gaps) == ([7], ())


def test_newton2_is_the_secant_where_there_are_two_real_noises() -> None:
    state = observed(1.0, 4.0)
    for _ in range(2):
        assert number(NEWTON2.estimate(state, 0.7).eps) == number(SECANT.estimate(state, 0.7).eps)
        state = NEWTON2.estimate(state, 0.7)
    state = NEWTON2.observe(state, one(9.0))
    assert len(state.real) == 3
    assert number(NEWTON2.estimate(state, 0.7).eps) != number(SECANT.estimate(state, 0.7).eps)


@every_estimator
def test_too_few_real_noises_are_refused(estimator: estimators.Estimator) -> None:
    enough = estimators.init()
    for _ in range(estimator.real_noises):
        enough = estimator.observe(enough, one(2.0))
    estimator.estimate(enough, 0.5)
    few = estimators.init()
    for _ in range(estimator.real_noises - 1):
        few = estimator.observe(few, one(2.0))
    with pytest.raises(ValueError, match=r"before an estimate|last real one"):
        estimator.estimate(few, 0.5)


@every_estimator
def test_a_state_is_never_changed(estimator: estimators.Estimator) -> None:
    state = estimators.init()
    for value in (1.0, 2.0, 5.0):
        state = estimator.observe(state, one(value))
    kept = copy.deepcopy(state)
    for _ in range(2):
        ahead = estimator.estimate(state, 0.3)
        estimator.observe(ahead, one(9.0))
    assert (state.scaled, state.ahead, state.gaps) == (kept.scaled, kept.ahead, kept.gaps)
    for name in ("eps", "delta"):
        assert torch.equal(getattr(state, name), getattr(kept, name))
    assert all(torch.equal(a, b) for a, b in zip(state.real, kept.real, strict=True))
    with pytest.raises(FrozenInstanceError):
        state.ahead = 1  # type: ignore[misc]


@every_estimator
def test_the_window_from_which_alpha_acts(estimator: estimators.Estimator) -> None:
    real = [1.0, 2.0, 0, 7.0, 0, 4.0, 0]
    low, high = (estimates(estimator, "CCACACA", real, alpha) for alpha in (0.25, 0.75))
    differs = [one != other for one, other in zip(low, high, strict=True)]
    expected = {"none": [False] * 3, "later windows": [False, True, True], "every window": [True] * 3}
    assert differs == expected[estimator.alpha_scales]


def test_unknown_estimator() -> None:
    with refused(ConfigError, key="estimator", got="gradeint", nearest="gradient"):
        estimators.get_estimator("gradeint")
