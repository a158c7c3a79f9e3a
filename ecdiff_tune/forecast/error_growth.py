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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SchedulerMixin
from numpy.typing import NDArray

from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.handoff import NoiseSchedule
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import get_estimator
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
    advice = "Choose another scheduler, or a search that does not predict."
    for setting in ("clip_sample", "thresholding"):
        if scheduler.config.get(setting):
            raise UnpredictableError(f"{name} with {setting} is not linear in the noise. {advice}")
    basis, rows = torch.eye(num_steps, dtype=torch.float64), []
    begun = SamplerState(0, torch.zeros_like(basis[:1]), estimators.init(), scheduler)
    steps = trajectory(begun, Plan((Action.CLOUD,) * num_steps), get_estimator("reuse"), 1.0)
    try:
        call = next(steps)
        while True:
            rows.append(call.latents[0])
            call = steps.send(basis[call.step, None])
    except StopIteration as finished:
        rows.append(finished.value.latents[0])
    response: Array = torch.stack(rows).double().numpy()
    if not np.isfinite(response).all():
        raise UnpredictableError(f"{name} weighs some step's noise without bound. {advice}")
    return response


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
    schedule = NoiseSchedule.of(scheduler, 1.0)
    if schedule is not None:
        abar = np.array([schedule.abar(float(timestep)) for timestep in scheduler.timesteps])
        signal, noisy, kind = np.sqrt(abar), np.sqrt(1 - abar), schedule.prediction_type
    elif hasattr(scheduler, "sigmas"):
        noisy = torch.as_tensor(scheduler.sigmas[:num_steps]).double().cpu().numpy()
        signal, kind = 1 - noisy, "flow"
    else:
        raise UnpredictableError(
            f"{type(scheduler).__name__} does not tell how much noise latents hold. "
            "Choose another scheduler, or a search that does not predict."
        )
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


@dataclass(frozen=True)
class _Side:
    """The cloud side of some candidates with one estimator, the shorter ones being a part of the longest."""

    estimator: str
    longest: tuple[Action, ...]
    edge_beside: frozenset[int]
    rows: list[int]


def _sides(candidates: Sequence[Candidate], plans: Sequence[Plan]) -> Iterator[_Side]:
    """Every candidate, by index, in one side; candidates that differ in s or alpha share theirs."""
    found = [
        (one.estimator, whole.steps[: whole.handoff_step])
        for one, whole in zip(candidates, plans, strict=True)
    ]
    order = sorted(range(len(found)), key=lambda i: (found[i][0], [action.value for action in found[i][1]]))
    side: _Side | None = None
    for i in reversed(order):  # of sides with the same beginning the longest comes first
        estimator, steps = found[i]
        if side is None or estimator != side.estimator or side.longest[: len(steps)] != steps:
            if side is not None:
                yield side
            side = _Side(estimator, steps, plans[i].edge_beside, [])
        side.rows.append(i)
    if side is not None:
        yield side


def _side_errors(side: _Side, alphas: Sequence[float], response: Array, reactions: Array) -> Array:
    """What the noise of every step is wrong by, in terms of e_0 … e_{2T-1}, shape (steps, alphas, 2T)."""
    total = 2 * len(reactions)
    basis = torch.eye(total, dtype=torch.float64)
    factors = torch.tensor(alphas, dtype=torch.float64)
    estimator, history = get_estimator(side.estimator), estimators.init()
    errors: Array = np.zeros((len(side.longest), len(alphas), total))
    for step, action in enumerate(side.longest):
        wrong = np.tensordot(reactions[step] * response[step, :step], errors[:step], 1)
        if step in side.edge_beside:
            history = estimators.with_edge(history, basis[len(reactions) + step] + torch.as_tensor(wrong))
        if action is Action.APPROX:
            history = estimator.estimate(history, factors)
        else:
            real = basis[step].expand(len(alphas), -1) + torch.as_tensor(wrong)
            history = estimator.observe(history, real)
        assert history.eps is not None
        errors[step] = (history.eps - basis[step]).double().numpy()
    return errors


def coefficients(
    candidates: Sequence[Candidate], handoff: Handoff, response: Array, reactions: Array
) -> Array:
    """The error of every candidate's final latents in terms of e_0 … e_{2T-1}.

    Those of a candidate in which the edge takes no part are 0 from T on.

    Args:
        response: W of the scheduler, shape (T + 1, T).
        reactions: of both models, shape (T,); all 0 is the open loop.

    Returns:
        Shape (candidates, 2T).
    """
    steps = len(reactions)
    plans = [one.resolve(steps, handoff).plan for one in candidates]
    tails = {s: tail(response, reactions, s) for s in {whole.handoff_step for whole in plans}}
    found = np.zeros((len(candidates), 2 * steps))
    for side in _sides(candidates, plans):
        alphas = sorted({candidates[i].params.alpha for i in side.rows})
        errors = _side_errors(side, alphas, response, reactions)
        for i in side.rows:
            s = plans[i].handoff_step
            before, after = (rows[-1] for rows in tails[s])
            found[i] = before @ errors[:s, alphas.index(candidates[i].params.alpha)]
            found[i, s:steps] -= after
            found[i, steps + s :] += after
    return found
