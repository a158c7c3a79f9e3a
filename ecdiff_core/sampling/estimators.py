"""What the noise of an approximated step is: the paper's gradient (eq. 3-6), and others to compare it with.

The history is kept in float32 whatever the model's dtype: differences of half-precision noises drown in
rounding. Noise is the *guided* (post-CFG) output of the model. All tensors have the shape of the latents,
(batch, channels, …); a state is a value and can be kept, forked and resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecdiff_core.errors import ConfigError, nearest

Alpha = float | Tensor
"""One factor for the batch, or a tensor of shape (batch,)."""


REMEMBERED = 3
"""Real noises that a state keeps: as many as ``newton2`` looks at."""


@dataclass(frozen=True)
class NoiseState:
    """What is remembered of earlier noises; all of them float32.

    Until the first estimate it depends on the estimator only by what the edge model was asked. Each estimator
    then keeps what it will need again and drops the rest.

    Args:
        eps: the last noise, real or estimated; None before the first step.
        delta: what a step adds, before alpha (eq. 3, 6); None before two real noises.
        scaled: whether alpha scales ``delta``.
        ahead: estimates since the last real noise.
        real: the last real noises, the newest first, at most ``REMEMBERED``.
        gaps: steps from each of them to the next older one; one fewer than ``real``.
        edge: the edge model's noise at the step under way, where it was called.
        residual: cloud's noise minus edge's at the last real step, where both were called.
    """

    eps: Tensor | None = None
    delta: Tensor | None = None
    scaled: bool = False
    ahead: int = 0
    real: tuple[Tensor, ...] = ()
    gaps: tuple[int, ...] = ()
    edge: Tensor | None = None
    residual: Tensor | None = None


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


def with_edge(state: NoiseState, eps: Tensor) -> NoiseState:
    """Take in the edge model's noise at the next step, before that step is observed or estimated."""
    return replace(state, edge=eps.to(torch.float32))


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
        residual=None if state.edge is None else eps - state.edge,
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


def estimate_edge(state: NoiseState, alpha: Alpha) -> NoiseState:
    """The edge model's noise at this step, plus alpha times what the cloud's lay beside it at the last real
    step r: eps_i = edge_i + alpha (cloud_r - edge_r). Our own.

    It costs an edge call at every approximated step, and one at the last real step before a window.
    """
    if state.edge is None or state.residual is None:
        raise ValueError("Expected the edge's noise at this step and the last real one: Plan.edge_beside.")
    eps = state.edge + _over_batch(alpha, state.edge) * state.residual
    return NoiseState(eps, ahead=state.ahead + 1, residual=state.residual)


@dataclass(frozen=True)
class Estimator:
    """A way to fill approximated steps: what is learnt from a real noise, and what is predicted.

    Args:
        observe, estimate: as the functions above.
        real_noises: needed before the first estimate.
        alpha_from_window: the first window of approximated steps in which alpha acts, counted from 1; None is
            never. Until there a state does not depend on alpha, so that configs which differ in alpha alone
            share their trajectory.
        calls_edge: whether the edge model must be called beside the cloud's steps (``Plan.edge_beside``).
    """

    observe: Callable[[NoiseState, Tensor], NoiseState]
    estimate: Callable[[NoiseState, Alpha], NoiseState]
    real_noises: int
    alpha_from_window: int | None
    calls_edge: bool = False

    @property
    def uses_alpha(self) -> bool:
        """Whether alpha can ever act."""
        return self.alpha_from_window is not None

    def uses_alpha_in(self, windows: int) -> bool:
        """Whether alpha can change the result of a plan, or its first steps, with so many windows."""
        return self.alpha_from_window is not None and windows >= self.alpha_from_window


ESTIMATORS = {
    "gradient": Estimator(observe, estimate_gradient, real_noises=2, alpha_from_window=2),
    "reuse": Estimator(observe, estimate_reuse, real_noises=1, alpha_from_window=None),
    "secant": Estimator(observe, estimate_secant, real_noises=2, alpha_from_window=1),
    "newton2": Estimator(observe, estimate_newton2, real_noises=2, alpha_from_window=1),
    "edge": Estimator(observe, estimate_edge, real_noises=1, alpha_from_window=1, calls_edge=True),
}


def get_estimator(name: str) -> Estimator:
    """The estimator of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"Unknown estimator {name!r}: {nearest(name, ESTIMATORS)}.")
    return ESTIMATORS[name]
