"""What a scheduler takes a denoiser's answers for, held against what the denoiser was trained to answer.

A scheduler in a model's folder is the model's own only if nobody exchanged it. Nothing fails with one of
another kind: the images are noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import SchedulerMixin

from ecdiff_core.errors import PairError

Answer = Literal["noise", "flow"]
"""``noise``: epsilon, v or the clean sample on a schedule of betas; ``flow``: a rectified flow's velocity."""
_ANSWERS = {"noise": "noise (epsilon, v or sample) on a schedule of betas", "flow": "a flow's velocity"}
_FEW_STEPS = 4


def check_answers(scheduler: SchedulerMixin, answer: Answer | None, vae: Mapping[str, Any]) -> None:
    """Refuse a scheduler that reads something else into a denoiser's answers than they are.

    EDM preconditioning (arXiv 2206.00364) cannot be told from a denoiser; it needs latents of a known
    standard deviation, so that it is taken where the autoencoder has ``latents_mean`` and ``latents_std``. A
    scheduler of betas whose ``prediction_type`` is ``flow_prediction`` says itself that its model is a
    flow's.

    Args:
        answer: of the denoiser; None where that is not known.
        vae: config of the autoencoder.

    Raises:
        PairError: it does, or it inverts: it adds noise to an image.
    """
    name, betas = type(scheduler).__name__, hasattr(scheduler, "alphas_cumprod")
    if betas and _is_rising(scheduler):
        line = f"{name} inverts: its timesteps rise, so that it makes noise of an image."
        raise PairError(line, key="scheduler", got=name, expected="falling timesteps", advice=_ADVICE)
    if answer is None:
        return
    expected = _expected(scheduler)
    known = vae.get("latents_mean") is not None and vae.get("latents_std") is not None
    fits = expected == answer or (expected == "flow" and betas) or (expected == "EDM" and known)
    if answer == "flow":
        fits = expected == "flow"
    if fits:
        return
    words = {
        **_ANSWERS,
        "EDM": f"EDM preconditioning (sigma_data {scheduler.config.get('sigma_data')})",
        "other": "what only its own models answer",
    }
    raise PairError(
        f"{name} expects {words[expected]}, and this model's denoiser predicts {words[answer]}: images "
        "would be noise.",
        key="scheduler",
        got=name,
        expected=answer,
        advice=_ADVICE,
    )


_ADVICE = "Put back the scheduler_config.json that the model was published with."


def _expected(scheduler: SchedulerMixin) -> str:
    if hasattr(scheduler, "alphas_cumprod"):
        return "flow" if scheduler.config.get("prediction_type") == "flow_prediction" else "noise"
    if "sigma_data" in scheduler.config:
        return "EDM"
    return "flow" if "Flow" in type(scheduler).__name__ or "shift" in scheduler.config else "other"


def _is_rising(scheduler: SchedulerMixin) -> bool:
    """Whether its timesteps go from the image to the noise."""
    fresh = type(scheduler).from_config(scheduler.config)
    try:
        fresh.set_timesteps(_FEW_STEPS)
    except Exception:  # what it needs more (a size, another number of steps) is for ``rehearse`` to tell
        return False
    timesteps = torch.as_tensor(fresh.timesteps)
    return len(timesteps) > 1 and bool(timesteps[0] < timesteps[-1])
