"""How errors in noises travel to the final latents: linear algebra in place of generations.

A scheduler is linear in the outputs that it is stepped with, and every estimator is linear in the real noises
that it has seen. So both can be run on unit vectors in place of noises: what comes out are the factors with
which the real noises enter. Here the noises are those of the cloud's own run, e_0 … e_{T-1}, and of the edge
model asked at the same latents, e_T … e_{2T-1}.

A model that is asked at other latents answers otherwise. To first order, and for errors in directions in
which clean latents spread by s around what is expected (a Gaussian of that width), its denoised latents move
by s^2 / (s^2 + sigma_hat^2) of the error: a model undoes errors that lead out of its data (s = 0) and keeps
those that lead to other data (s large, the *open loop*).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

import numpy as np
import torch
from diffusers import SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor

from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.handoff import NoiseSchedule
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import Estimator, NoiseState, add_residual, get_estimator
from ecdiff_core.sampling.params import Factors
from ecdiff_core.sampling.plan import Action, Handoff, Plan
from ecdiff_core.sampling.sampler import SamplerState, trajectory
from ecdiff_tune.evaluation.candidate import Candidate

Array = NDArray[np.float64]


class UnpredictableError(ECDiffError):
    """Nothing can be predicted with these settings."""


def scheduler_response(scheduler: SchedulerMixin, num_steps: int) -> Array:
    """W: the latents before every step, and the final ones, as sums over the outputs so far.

    For DDIM on noise predictions W_ij = sqrt(abar_i) (sigma_hat_{j+1} - sigma_hat_j) for j < i, where
    sigma_hat = sqrt((1 - abar) / abar). Read off the scheduler itself, stepped with unit vectors, so that
    multistep schedulers and flow matching have their own.

    Args:
        scheduler: with its timesteps set and no step done; left as it is.

    Returns:
        Shape (T + 1, T); W_ij is 0 for j >= i. Latents are scaled as the model wants them, but for the final.

    Raises:
        UnpredictableError: the scheduler clips, so that it is not linear, or weighs a step without bound.
    """
    name = type(scheduler).__name__
    advice = "Choose another scheduler, or a search that does not predict, such as search=greedy."
    for setting in ("clip_sample", "thresholding"):
        if scheduler.config.get(setting):
            line = f"{name} with {setting} is not linear in the noise."
            raise UnpredictableError(line, key=setting, got=name, advice=advice)
    basis, rows = torch.eye(num_steps, dtype=torch.float64), []
    begun = SamplerState(0, torch.zeros_like(basis[:1]), estimators.init(), scheduler)
    steps = trajectory(begun, Plan((Action.CLOUD,) * num_steps), get_estimator("reuse"), Factors(1.0))
    try:
        call = next(steps)
        while True:
            rows.append(call.latents[0])
            call = steps.send(basis[call.step, None])
    except StopIteration as finished:
        rows.append(finished.value.latents[0])
    response: Array = torch.stack(rows).double().numpy()
    if not np.isfinite(response).all():
        line = f"{name} weighs some step's noise without bound."
        raise UnpredictableError(line, key="scheduler", got=name, advice=advice)
    return response


def signal_and_noise(scheduler: SchedulerMixin, num_steps: int) -> tuple[Array, Array, str]:
    """a and b of the latents a x_0 + b eps before every step, shape (T,) each, and what a model answers with:
    ``epsilon``, ``v_prediction``, ``sample`` or ``flow``.

    Args:
        scheduler: with its timesteps set.

    Raises:
        UnpredictableError: the scheduler does not tell a and b.
    """
    schedule = NoiseSchedule.of(scheduler, 1.0)
    if schedule is not None:
        abar = np.array([schedule.abar(float(timestep)) for timestep in scheduler.timesteps])
        return np.sqrt(abar), np.sqrt(1 - abar), schedule.prediction_type
    if hasattr(scheduler, "sigmas"):
        noisy = torch.as_tensor(scheduler.sigmas[:num_steps]).double().cpu().numpy()
        return 1 - noisy, noisy, "flow"
    name = type(scheduler).__name__
    raise UnpredictableError(
        f"{name} does not tell how much noise latents hold.",
        key="scheduler",
        got=name,
        advice="Choose another scheduler, or a search that does not predict, such as search=greedy.",
    )


def reaction(scheduler: SchedulerMixin, num_steps: int, spread: float) -> Array:
    """By how much a model's output moves with its latents in directions of that spread, shape (T,).

    With latents a x_0 + b eps: the denoised x_0 moves by a s^2 / (a^2 s^2 + b^2) and eps by
    b / (a^2 s^2 + b^2), and the output, which is noise, v, x_0 or a velocity, as these do.

    Args:
        scheduler: with its timesteps set.
        spread: s, in units of the latents, 0 … infinity.

    Raises:
        UnpredictableError: the scheduler does not tell a and b.
    """
    signal, noisy, kind = signal_and_noise(scheduler, num_steps)
    signal, noisy = signal[1:], noisy[1:]  # nothing is wrong with the latents before step 0
    if np.isinf(spread):
        clean, eps = 1 / signal, np.zeros_like(signal)
    else:
        total = (signal * spread) ** 2 + noisy**2
        clean, eps = signal * spread**2 / total, noisy / total
    outputs = {
        "epsilon": eps,
        "v_prediction": signal * eps - noisy * clean,
        "sample": clean,
        "flow": eps - clean,
    }
    return np.concatenate([[0.0], outputs[kind]])


def tail(response: Array, reactions: Array, start: int) -> tuple[Array, Array]:
    """What becomes of errors once all steps from ``start`` on are real calls of a model that reacts.

    Args:
        response: W, shape (T + 1, T).
        reactions: of the model, shape (T,).

    Returns:
        The latents before every step >= ``start`` and the final ones, in terms of the errors of noises before
        ``start``, shape (T + 1 - start, start), and of the model's own errors from then on, shape
        (T + 1 - start, T - start).
    """
    steps = len(reactions)
    late, own = response[start:, :start], response[start:, start:]
    answered = np.linalg.inv(np.eye(steps - start) - reactions[start:, None] * own[:-1])
    # Errors of noises from start on: own ones, and the reaction to latents that are wrong already.
    moved = own @ answered
    return late + moved @ (reactions[start:, None] * late[:-1]), moved


class _Walk:
    """Noises of plans with one estimator, on unit vectors: what two plans begin with alike is done once.

    Args:
        factors: (alpha, rho) of the rows, all different.
        response, reactions: as for ``coefficients``.
    """

    def __init__(
        self, estimator: Estimator, factors: Sequence[tuple[float, float]], response: Array, reactions: Array
    ) -> None:
        self._estimator, self._response, self._reactions = estimator, response, reactions
        alphas, residuals = torch.tensor(factors, dtype=torch.float64).T
        self._factors = Factors(alphas, residuals)
        self._steps = len(reactions)
        self._basis = np.eye(3 * self._steps)
        self._errors: Array = np.zeros((self._steps, len(factors), 3 * self._steps))
        self._done: list[tuple[str, NoiseState, int]] = []
        """Of every step its letter, the history after it, and the last cloud step."""

    def errors(self, letters: str) -> Array:
        """What the noises of a plan's first steps are wrong by, in terms of e_0 … e_{2T-1} and of an error of
        the answer at each step.

        Args:
            letters: C, A, E or, for an edge step with the residual, M.

        Returns:
            Shape (steps, rows, 3T); overwritten by the next call.
        """
        alike = (one[0] == letter for one, letter in zip(self._done, letters, strict=False))
        del self._done[sum(takewhile(bool, alike)) :]
        for step in range(len(self._done), len(letters)):
            self._step(step, letters[step])
        return self._errors[: len(letters)]

    def _step(self, step: int, letter: str) -> None:
        _, history, last = self._done[-1] if self._done else ("", estimators.init(), -1)
        if letter == "A":
            history = self._estimator.estimate(history, self._factors.alpha)
        else:
            wrong = np.tensordot(self._reactions[step] * self._response[step, :step], self._errors[:step], 1)
            asked = step if letter == "C" else self._steps + step
            noise = torch.from_numpy(wrong + self._basis[asked] + self._basis[2 * self._steps + step])
            if letter == "M":
                noise = add_residual(noise, self.residual(last), self._factors.residual)
            last = step if letter == "C" else last
            history = self._estimator.observe(history, noise)
        assert history.eps is not None
        self._errors[step] = history.eps.double().numpy() - self._basis[step]
        self._done.append((letter, history, last))

    def residual(self, step: int) -> Tensor:
        """Cloud minus edge, asked at the same latents, at which both react alike; shape (rows, 3T)."""
        apart = torch.from_numpy(self._basis[step] - self._basis[self._steps + step])
        return apart.expand(len(self._errors[0]), -1)


_SETTLED = re.compile(r"(E*|M*)$")
"""The end of a plan that is edge steps alone, all with the residual or all without."""


@dataclass(frozen=True)
class Growth:
    """What errors of noises become by some plans.

    Args:
        latents: the errors of the latents before every step, and of the final ones, in terms of e_0 …
            e_{2T-1}, shape (plans, T + 1, 2T); 0 from T on where the edge takes no part.
        answers: by what an error of the answer at each real step moves the final latents, shape (plans, T).
    """

    latents: Array
    answers: Array

    @property
    def final(self) -> Array:
        """Of the final latents, shape (plans, 2T)."""
        return self.latents[:, -1]


def growth(candidates: Sequence[Candidate], handoff: Handoff, response: Array, reactions: Array) -> Growth:
    """How errors grow by the candidates' plans.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,); all 0 is the open loop.
    """
    steps = len(reactions)
    found = np.zeros((len(candidates), steps + 1, 2 * steps))
    answers = np.zeros((len(candidates), steps))
    plans = [one.resolve(steps, handoff).plan for one in candidates]
    letters = [whole.letters.replace("B", "C") for whole in plans]

    @cache
    def tails(start: int) -> tuple[Array, Array]:
        return tail(response, reactions, start)

    for name in dict.fromkeys(one.estimator for one in candidates):
        estimator = get_estimator(name)
        rows = [i for i, one in enumerate(candidates) if one.estimator == name]
        scales = {i: candidates[i].params.factors(estimator) for i in rows}
        pairs = {i: (float(one.alpha), float(one.residual)) for i, one in scales.items()}
        factors = sorted(set(pairs.values()))
        walk = _Walk(estimator, factors, response, reactions)
        for i in sorted(rows, key=letters.__getitem__):
            settled = _SETTLED.search(letters[i])
            assert settled is not None
            start = settled.start()
            before, after = tails(start)
            early = walk.errors(letters[i][:start])[:, factors.index(pairs[i])]
            found[i, :start] = response[:start, :start] @ early[:, : 2 * steps]
            late = found[i, start:]
            late += before @ early[:, : 2 * steps]
            late[:, start:steps] -= after
            late[:, steps + start :] += after
            if settled[0][:1] == "M":
                last, moved = letters[i].rindex("C"), pairs[i][1] * after.sum(axis=1)
                late[:, last] += moved
                late[:, steps + last] -= moved
            answers[i] = [*(before[-1] @ early[:, 2 * steps : 2 * steps + start]), *after[-1]]
    return Growth(found, answers)
