"""What the noise of an approximated step is: the paper's gradient (eq. 3-6), and others to compare it with.

The history is kept in float32 whatever the model's dtype: differences of half-precision noises drown in
rounding. Noise is the *guided* (post-CFG) output of the model. All tensors have the shape of the latents,
(batch, channels, …); a state is a value and can be kept, forked and resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ecdiff_core.errors import ConfigError

Alpha = float | Tensor
"""One factor for the batch, or a tensor of shape (batch,)."""


REMEMBERED = 3
"""Real noises that a state keeps: as many as ``newton2`` looks at."""


@dataclass(frozen=True)
class NoiseState:
    """What is remembered of earlier noises; all of them float32.

    Until the first estimate it does not depend on the estimator. Each estimator then keeps what it will need
    again and drops the rest. *Real* noises are those used at steps with a model call, whoever's it was.

    Args:
        eps: the last noise, real or estimated; None before the first step.
        delta: what a step adds, before alpha (eq. 3, 6); None before two real noises.
        scaled: whether alpha scales ``delta``.
        ahead: estimates since the last real noise.
        real: the last real noises, the newest first, at most ``REMEMBERED``.
        gaps: steps from each of them to the next older one; one fewer than ``real``.
    """

    eps: Tensor | None = None
    delta: Tensor | None = None
    scaled: bool = False
    ahead: int = 0
    real: tuple[Tensor, ...] = ()
    gaps: tuple[int, ...] = ()


def init() -> NoiseState:
    """The state before the first step."""
    return NoiseState()


def _over_batch(alpha: Alpha, like: Tensor) -> Alpha:
    """alpha, shaped so that it multiplies every sample of a batch by its own factor."""
    if not isinstance(alpha, Tensor):
        return alpha
    if alpha.ndim == 0:
        return alpha.to(like)
    if alpha.shape != like.shape[:1]:
        raise ValueError(f"Expected alpha of shape ({like.shape[0]},), got {tuple(alpha.shape)}.")
    return alpha.to(like).reshape(-1, *[1] * (like.ndim - 1))


def add_residual(eps: Tensor, residual: Tensor, factor: Alpha) -> Tensor:
    """The noise of an edge step: edge_i + rho (cloud_r - edge_r); float32, factors as for alpha."""
    return eps.to(torch.float32) + _over_batch(factor, residual) * residual


def observe(state: NoiseState, eps: Tensor) -> NoiseState:
    """Take in a real noise (EC-Diff eq. 3 and 6): every estimator's way, so that all can share a warm-up.

    In the warm-up the gradient is the difference of two real noises, which alpha leaves alone (eq. 3). After
    an approximated window it is real minus last approximated noise, which alpha scales (eq. 6).
    """
    eps = eps.to(torch.float32)
    real = (eps, *state.real)[:REMEMBERED]
    return NoiseState(
        eps,
        delta=None if state.eps is None else eps - state.eps,
        scaled=state.ahead > 0,
        real=real,
        gaps=(state.ahead + 1, *state.gaps)[: len(real) - 1],
    )


def estimate_gradient(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Predict the next noise without the model: eps' = eps + delta (EC-Diff eq. 4, 5).

    ``delta`` stays fixed for the whole window of k steps.
    """
    if state.eps is None or state.delta is None:
        raise ValueError("Expected two observed noises before an estimate; p >= 2 guarantees them.")
    delta = _over_batch(alpha, state.delta) * state.delta if state.scaled else state.delta
    return NoiseState(state.eps + delta, state.delta, state.scaled, state.ahead + 1)


def estimate_reuse(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Repeat the last real noise (AdaptiveDiffusion's skip, arXiv 2410.09873); alpha has no meaning here."""
    if state.eps is None:
        raise ValueError("Expected an observed noise before an estimate.")
    return NoiseState(state.eps, ahead=state.ahead + 1)


def estimate_secant(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Go along the line through the last two real noises, at steps q < r:

        eps_i = eps_r + alpha (i - r) (eps_r - eps_q) / (r - q)

    With alpha = 1 this is the polynomial extrapolation of DEIS (arXiv 2204.13902) in its first order, over
    step indices; that alpha damps it is our own, after EC-Diff's eq. 6.
    """
    if len(state.real) < 2:
        raise ValueError("Expected two observed noises before an estimate; p >= 2 guarantees them.")
    (last, before), i = state.real[:2], state.ahead + 1
    correction = i * (last - before) / state.gaps[0]
    eps = last + _over_batch(alpha, last) * correction
    return NoiseState(eps, ahead=i, real=state.real[:2], gaps=state.gaps[:1])


def estimate_newton2(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Go along the parabola through the last three real noises, at steps o < q < r (Newton's divided
    differences; DEIS in its second order):

        eps_i = eps_r + alpha ((i - r) [r, q] + (i - r) (i - q) [r, q, o])

    with [r, q] = (eps_r - eps_q) / (r - q) and [r, q, o] = ([r, q] - [q, o]) / (r - o). alpha scales all that
    is added to eps_r, the linear and the quadratic term alike, so that alpha = 0 would be ``reuse``. Where
    there are but two real noises it is ``secant``.
    """
    if len(state.real) < REMEMBERED:
        return replace(estimate_secant(state, alpha), real=state.real)
    (last, before, oldest), (gap, earlier_gap), i = state.real, state.gaps, state.ahead + 1
    slope = (last - before) / gap
    curvature = (slope - (before - oldest) / earlier_gap) / (gap + earlier_gap)
    correction = i * slope + i * (i + gap) * curvature
    eps = last + _over_batch(alpha, last) * correction
    return NoiseState(eps, ahead=i, real=state.real, gaps=state.gaps)


AlphaScales = Literal["none", "later windows", "every window"]
"""Where alpha acts: nowhere, in windows of approximated steps whose last real step follows one, in all."""


@dataclass(frozen=True)
class Estimator:
    """A way to fill approximated steps: what is learnt from a real noise, and what is predicted.

    Args:
        observe, estimate: as the functions above.
        real_noises: needed before the first estimate.
        alpha_scales: what alpha acts on. Until there a state does not depend on alpha, so that configs which
            differ in alpha alone share their trajectory.
        fills_with_edge: approximated steps of the cloud side become edge steps with the residual, whose
            factor alpha is; there is nothing to estimate then.
        with_two: name of the estimator that it is where there are but two real noises; None for itself.
    """

    observe: Callable[[NoiseState, Tensor], NoiseState]
    estimate: Callable[[NoiseState, Alpha], NoiseState]
    real_noises: int
    alpha_scales: AlphaScales
    fills_with_edge: bool = False
    with_two: str | None = None

    @property
    def uses_alpha(self) -> bool:
        """Whether alpha can ever act."""
        return self.alpha_scales != "none" or self.fills_with_edge


ESTIMATORS = {
    "gradient": Estimator(observe, estimate_gradient, real_noises=2, alpha_scales="later windows"),
    "reuse": Estimator(observe, estimate_reuse, real_noises=1, alpha_scales="none"),
    "secant": Estimator(observe, estimate_secant, real_noises=2, alpha_scales="every window"),
    "newton2": Estimator(
        observe, estimate_newton2, real_noises=2, alpha_scales="every window", with_two="secant"
    ),
    "edge": Estimator(observe, estimate_reuse, real_noises=1, alpha_scales="none", fills_with_edge=True),
}


def get_estimator(name: str) -> Estimator:
    """The estimator of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ESTIMATORS:
        raise ConfigError.unknown("estimator", name, ESTIMATORS)
    return ESTIMATORS[name]
