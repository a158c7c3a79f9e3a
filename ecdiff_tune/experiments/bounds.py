"""Theorems 1 and 2 of the paper, evaluated on what really happened.

All is told in steps that count upwards. A step of eq. 1 is x_{i+1} = f_i x_i - g_i eps_i. x_i and eps_i are
latents and noise of the cloud's own run, x'_i and eps'_i those of the run with approximated steps, and

    beta_i  = eps_i - eps'_i   of an approximated step: how much the estimate is wrong (assumption 1 of A.2.2)
    beta'_i = eps'_i - eps_i   of a real step: what the model predicts more at x'_i than at x_i, in order to
                               correct (assumption 2); both noises are the model's own, so no call is needed

Sizes are root mean squares over elements. The paper adds noises and calls the sum a bound, which can only be
meant for vectors (its eq. 20 and 29 are equations of vectors up to their last line); so here a sum's size is
the size of the vector that it is. O(…) hides a factor; *held as printed* takes it as 1, as the proofs do, who
argue that f <= 1 and g <= 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_tune.experiments.corrections import Window, windows
from ecdiff_tune.experiments.trace import Trace, rms
from ecdiff_tune.forecast.error_growth import UnpredictableError, scheduler_response

ROUNDING = 1e-3
"""Share of a bound by which an error in float32 may exceed it and still count as held."""


@dataclass(frozen=True)
class Coefficients:
    """f and g of eq. 1, step by step, shape (T,), for latents as the models want them.

    f_0 is not known (nan) and never needed: no step is approximated before step 1.
    """

    f: NDArray[np.float64]
    g: NDArray[np.float64]

    @classmethod
    def of(cls, scheduler: SchedulerMixin, num_steps: int) -> Coefficients | None:
        """Read off a scheduler; None where its step is not of the form of eq. 1 (it looks at earlier outputs,
        or clips).

        Args:
            scheduler: with its timesteps set and no step done.
        """
        try:
            response = scheduler_response(scheduler, num_steps)
        except UnpredictableError:
            return None
        f = np.full(num_steps, np.nan)
        for i in range(1, num_steps):
            before, after = response[i, :i], response[i + 1, :i]
            f[i] = before @ after / max(float(before @ before), np.finfo(float).tiny)
            if not np.allclose(after, f[i] * before, rtol=1e-3, atol=1e-4 * np.abs(after).max()):
                return None
        return cls(f, -np.diagonal(response[1:]))

    def weights(self, first: int, last: int) -> NDArray[np.float64]:
        """How much an error of the noise of step ``first`` … ``last`` is worth after step ``last``:
        g_i times the f of all later ones."""
        later = np.cumprod(np.append(1.0, self.f[last:first:-1]))[::-1]
        return later * self.g[first : last + 1]


@dataclass(frozen=True)
class Check:
    """A theorem on one window and one prompt.

    Args:
        theorem: 1 or 2.
        prompt: index in the batch.
        window: number of the window, from 1.
        step: the error is that of the latents before this step.
        error: size of Delta x: for theorem 1 x' - x, for theorem 2 what the window adds to it.
        residual: size of Delta x minus the equation behind the theorem (eq. 20, 29), over ``error``; where
            the derivation is right and eq. 1 holds, rounding alone.
        bound: the same terms with f and g, sizes added, which the triangle inequality makes a bound.
        printed: size of the sum in the theorem, without f and g.
        left_out: size of the gradient's term in eq. 29, with f and g, which its last line drops; 0 in
            theorem 1.
    """

    theorem: int
    prompt: int
    window: int
    step: int
    error: float
    residual: float
    bound: float
    printed: float
    left_out: float

    @property
    def held(self) -> bool:
        """Whether the bound with f and g held, but for rounding."""
        return self.error <= self.bound * (1 + ROUNDING)

    @property
    def held_as_printed(self) -> bool:
        """Whether the theorem's sum was a bound with the factor 1."""
        return self.error <= self.printed


def checks(
    plan: Plan, cloud: Trace, ours: Trace, coefficients: Coefficients, alpha: float | None
) -> Iterator[Check]:
    """Both theorems on every window of a plan that they speak of.

    Theorem 1 is about the first window with its correcting call, theorem 2 about every later one whose
    gradient is eq. 6's.

    Args:
        cloud, ours: the cloud's own run and that of the plan.
        alpha: of the paper's gradient; None for another estimator, of which theorem 2 says nothing.
    """
    for number, window in enumerate(windows(plan), start=1):
        if number == 1 and window.corrected:
            yield from _theorem1(window, cloud, ours, coefficients)
        approximated_before = plan.steps[window.first - 2] is Action.APPROX
        if number > 1 and approximated_before and alpha is not None:
            yield from _theorem2(number, window, cloud, ours, coefficients, alpha)


def _theorem1(window: Window, cloud: Trace, ours: Trace, coefficients: Coefficients) -> Iterator[Check]:
    """Eq. 20: Delta x = sum_i w_i beta_i - g beta' after the correcting call, the sum over the window."""
    end = window.end
    weights = coefficients.weights(window.first, end)
    terms = [*_betas(cloud, ours, window), cloud.noises[end] - ours.noises[end]]
    error = ours.latents[end + 1] - cloud.latents[end + 1]
    yield from _checks(1, 1, end + 1, error, weights, terms, _sizes(weights, terms), None)


def _theorem2(
    number: int, window: Window, cloud: Trace, ours: Trace, coefficients: Coefficients, alpha: float
) -> Iterator[Check]:
    """Eq. 29, with r the real step before the window, w the weights of f and g, and m = 1 … k:

        Delta x = sum_m w (triangle_m - (1 + m alpha) beta'_r - m alpha beta_{r-1}
                           + m (1 - alpha) (eps_r - eps_{r-1}))

    where triangle_m, the paper's beta with a triangle, is eps_{r+m} - eps_r - m (eps_r - eps_{r-1}). The
    proof's last line drops the last term.

    Delta x is what the window adds: x' - x after it, minus what x' - x before it has grown to through f.
    """
    r, last = window.first - 1, window.end - 1
    weights = coefficients.weights(window.first, last)
    change = cloud.noises[r] - cloud.noises[r - 1]
    real = ours.noises[r] - cloud.noises[r]
    estimated = cloud.noises[r - 1] - ours.noises[r - 1]
    kept, dropped, sizes = [], [], torch.zeros(len(change))
    for m, weight in enumerate(weights, start=1):
        triangle = cloud.noises[r + m] - cloud.noises[r] - m * change
        parts = [triangle, -(1 + m * alpha) * real, -m * alpha * estimated]
        kept.append(torch.stack(parts).sum(dim=0))
        dropped.append(m * (1 - alpha) * change)
        sizes += abs(weight) * torch.stack([rms(part) for part in (*parts, dropped[-1])]).sum(dim=0)
    begun, ended = (ours.latents[i] - cloud.latents[i] for i in (window.first, window.end))
    error = ended - float(np.prod(coefficients.f[window.first : window.end])) * begun
    yield from _checks(2, number, window.end, error, weights, kept, sizes, dropped)


def _betas(cloud: Trace, ours: Trace, window: Window) -> list[Tensor]:
    return [cloud.noises[i] - ours.noises[i] for i in range(window.first, window.end)]


def _weighted(weights: NDArray[np.float64], terms: list[Tensor]) -> Tensor:
    return torch.stack([float(w) * term for w, term in zip(weights, terms, strict=True)]).sum(dim=0)


def _sizes(weights: NDArray[np.float64], terms: list[Tensor]) -> Tensor:
    """Sum of the sizes of weighted terms, shape (prompts,)."""
    return torch.stack([abs(w) * rms(term) for w, term in zip(weights, terms, strict=True)]).sum(dim=0)


def _checks(
    theorem: int,
    number: int,
    step: int,
    error: Tensor,
    weights: NDArray[np.float64],
    terms: list[Tensor],
    bound: Tensor,
    dropped: list[Tensor] | None,
) -> Iterator[Check]:
    """A check a prompt; ``terms`` are those of the theorem's sum, ``dropped`` what eq. 29 has besides."""
    left_out = torch.zeros_like(error) if dropped is None else _weighted(weights, dropped)
    residual = rms(error - _weighted(weights, terms) - left_out) / rms(error).clamp(min=1e-12)
    printed = rms(torch.stack(terms).sum(dim=0))
    columns = (rms(error), residual, bound, printed, rms(left_out))
    for prompt, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        yield Check(theorem, prompt, number, step, *row)
