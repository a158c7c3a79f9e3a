"""The estimators: eq. 3-6 by hand, exactness, precision, and alpha over a batch."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import Tensor

from ecdiff_core import noise
from ecdiff_core.errors import ConfigError
from ecdiff_core.noise import NoiseState

GRADIENT, REUSE = noise.get_estimator("gradient"), noise.get_estimator("reuse")


def one(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A noise of one number."""
    return torch.full((1, 1, 1, 1), value, dtype=dtype)


def number(tensor: Tensor | None) -> float:
    """The number of such a noise."""
    assert tensor is not None
    return tensor.item()


def observed(*values: float) -> NoiseState:
    """The state after real noises."""
    state = noise.init()
    for value in values:
        state = GRADIENT.observe(state, one(value))
    return state


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
    assert noise.init() == NoiseState(eps=None, delta=None, scaled=False, ahead=0)
    assert observed(4.0).delta is None
    for state in (noise.init(), observed(4.0)):
        with pytest.raises(ValueError, match="two observed noises"):
            GRADIENT.estimate(state, 0.3)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("p", [2, 3, 7])
def test_noise_linear_in_the_step_is_exact_in_the_first_window(p: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Sixteenths, so that no sum is rounded and equality can be exact.
    offset, slope = torch.randint(-64, 64, (2, 2, 4, 8, 8), generator=generator) / 16
    state = noise.init()
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
    state = GRADIENT.observe(noise.init(), one(1.0, torch.float16))
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
    assert REUSE.observe(noise.init(), one(1.0, torch.bfloat16)).eps.dtype is torch.float32


def test_alpha_over_the_batch_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(5, 3, 4, 8, 8, generator=generator)
    alphas = [0.1, 0.3, 0.9]

    def trace(noises: Tensor, alpha: noise.Alpha) -> list[Tensor]:
        state, seen = noise.init(), []
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
    state = REUSE.observe(noise.init(), one(1.0))
    state = REUSE.observe(state, one(3.0))
    for _ in range(2):
        state = REUSE.estimate(state, 0.3)
        assert number(state.eps) == 3.0
        assert state.ahead > 0
    state = REUSE.observe(state, one(8.0))
    assert (number(state.eps), state.ahead) == (8.0, 0)
    assert number(REUSE.estimate(state, 0.3).eps) == 8.0
    with pytest.raises(ValueError, match="an observed noise"):
        REUSE.estimate(noise.init(), 0.3)


@pytest.mark.parametrize("estimator", [GRADIENT, REUSE], ids=["gradient", "reuse"])
def test_a_state_is_never_changed(estimator: noise.Estimator) -> None:
    state = estimator.observe(estimator.observe(noise.init(), one(1.0)), one(2.0))
    kept = replace(state, eps=state.eps.clone(), delta=None if state.delta is None else state.delta.clone())
    for _ in range(2):
        estimator.observe(estimator.estimate(state, 0.3), one(9.0))
    assert torch.equal(state.eps, kept.eps)
    assert kept.delta is None or torch.equal(state.delta, kept.delta)
    with pytest.raises(FrozenInstanceError):
        state.ahead = 1  # type: ignore[misc]


def test_which_estimators_heed_alpha() -> None:
    def after_a_correction(estimator: noise.Estimator, alpha: float) -> float:
        state = noise.init()
        for value in (1.0, 2.0):
            state = estimator.observe(state, one(value))
        state = estimator.observe(estimator.estimate(state, alpha), one(7.0))
        return number(estimator.estimate(state, alpha).eps)

    for estimator in noise.ESTIMATORS.values():
        heeds = after_a_correction(estimator, 0.2) != after_a_correction(estimator, 0.8)
        assert estimator.uses_alpha is heeds


def test_unknown_estimator() -> None:
    with pytest.raises(ConfigError, match=r"Unknown estimator 'gradeint': .*did you mean gradient\?"):
        noise.get_estimator("gradeint")
