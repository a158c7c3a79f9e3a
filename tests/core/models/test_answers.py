"""A scheduler for models of another kind in a model's folder or pipeline: refused, with what each means."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest

from ecdiff_core.errors import PairError
from ecdiff_core.models.answers import Answer, check_answers

from ...refusals import refused

PLAIN: dict[str, Any] = {"latents_mean": None, "latents_std": None}
NORMALISED: dict[str, Any] = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}


def scheduler(name: str, **settings: Any) -> Any:
    return getattr(diffusers, name)(**settings)


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("EDMEulerScheduler", "noise", "noise"),
        ("EDMDPMSolverMultistepScheduler", "noise", "noise"),
        ("FlowMatchEulerDiscreteScheduler", "noise", "noise"),
        ("FlowMatchHeunDiscreteScheduler", "noise", "noise"),
        ("IPNDMScheduler", "noise", "noise"),
        ("DDIMInverseScheduler", "noise", "falling timesteps"),
        ("DPMSolverMultistepInverseScheduler", None, "falling timesteps"),
        ("DDIMScheduler", "flow", "flow"),
        ("EDMEulerScheduler", "flow", "flow"),
    ],
)
def test_one_for_other_models(name: str, answer: Answer | None, expected: str) -> None:
    with refused(PairError, key="scheduler", got=name, expected=expected, source=name):
        check_answers(scheduler(name), answer, PLAIN)


@pytest.mark.parametrize(
    ("own", "answer", "vae"),
    [
        (scheduler("DDIMScheduler", prediction_type="v_prediction"), "noise", PLAIN),
        (scheduler("PNDMScheduler"), "noise", PLAIN),
        (scheduler("CogVideoXDPMScheduler"), "noise", PLAIN),
        (scheduler("EDMDPMSolverMultistepScheduler"), "noise", NORMALISED),  # Playground 2.5
        (scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0), "flow", PLAIN),
        (scheduler("UniPCMultistepScheduler", prediction_type="flow_prediction"), "flow", PLAIN),
        (scheduler("UniPCMultistepScheduler", prediction_type="flow_prediction"), "noise", PLAIN),
        (scheduler("FlowMatchEulerDiscreteScheduler", invert_sigmas=True), None, PLAIN),  # Mochi
    ],
)
def test_a_model_s_own(own: Any, answer: Answer | None, vae: dict[str, Any]) -> None:
    check_answers(own, answer, vae)
