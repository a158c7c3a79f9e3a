"""What the noise of an approximated step is: the paper's gradient (eq. 3-6), and plain reuse.

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


@dataclass(frozen=True)
class NoiseState:
    """What is remembered of earlier noises.

    Args:
        eps: the last noise, real or estimated; None before the first step. float32.
        delta: what a step adds, before alpha (eq. 3, 6); None before two real noises. float32.
        scaled: whether alpha scales ``delta``.
        ahead: estimates since the last real noise.
    """

    eps: Tensor | None = None
    delta: Tensor | None = None
    scaled: bool = False
    ahead: int = 0


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


def observe_gradient(state: NoiseState, eps: Tensor) -> NoiseState:
    """Take in a real noise (EC-Diff eq. 3 and 6).

    In the warm-up the gradient is the difference of two real noises, which alpha leaves alone (eq. 3). After
    an approximated window it is real minus last approximated noise, which alpha scales (eq. 6).
    """
    eps = eps.to(torch.float32)
    if state.eps is None:
        return NoiseState(eps)
    return NoiseState(eps, eps - state.eps, scaled=state.ahead > 0)


def estimate_gradient(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Predict the next noise without the model: eps' = eps + delta (EC-Diff eq. 4, 5).

    ``delta`` stays fixed for the whole window of k steps.
    """
    if state.eps is None or state.delta is None:
        raise ValueError("Expected two observed noises before an estimate; p >= 2 guarantees them.")
    delta = _over_batch(alpha, state.delta) * state.delta if state.scaled else state.delta
    return replace(state, eps=state.eps + delta, ahead=state.ahead + 1)


def observe_reuse(state: NoiseState, eps: Tensor) -> NoiseState:
    """Take in a real noise and nothing else."""
    return NoiseState(eps.to(torch.float32))


def estimate_reuse(state: NoiseState, alpha: Alpha) -> NoiseState:
    """Repeat the last real noise (AdaptiveDiffusion's skip, arXiv 2410.09873); alpha has no meaning here."""
    if state.eps is None:
        raise ValueError("Expected an observed noise before an estimate.")
    return replace(state, ahead=state.ahead + 1)


@dataclass(frozen=True)
class Estimator:
    """A way to fill approximated steps: what is learnt from a real noise, and what is predicted.

    Until the first estimate that alpha scales, a state does not depend on alpha, so that configs which differ
    in alpha alone share their trajectory until there.
    """

    observe: Callable[[NoiseState, Tensor], NoiseState]
    estimate: Callable[[NoiseState, Alpha], NoiseState]
    uses_alpha: bool


ESTIMATORS = {
    "gradient": Estimator(observe_gradient, estimate_gradient, uses_alpha=True),
    "reuse": Estimator(observe_reuse, estimate_reuse, uses_alpha=False),
}


def get_estimator(name: str) -> Estimator:
    """The estimator of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"Unknown estimator {name!r}: {nearest(name, ESTIMATORS)}.")
    return ESTIMATORS[name]
