"""A state that was written and read goes on as if it had never been."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import plan
from ecdiff_core.sampling.sampler import SamplerState, advance, start
from ecdiff_core.sampling.schedulers import build_scheduler
from ecdiff_core.sampling.state import SavedStateError, from_bytes, to_bytes
from shapes_pair import models

SCHEDULERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
)


def cloud(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) + 0.3 * torch.sin(5 * x + t / 300)


def edge(x: Tensor, t: Tensor) -> Tensor:
    return 0.9 * torch.tanh(1.1 * x)


def begin(name: str, steps: int) -> SamplerState:
    scheduler = build_scheduler(name, models.scheduler())
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    asked = steps - isinstance(scheduler, PNDMScheduler)
    return start(latents * scheduler.init_noise_sigma, scheduler, asked)


SMALL = (
    plan(ECDiffParams(3, 2, 0.3, 8), 10),
    cloud,
    edge,
    estimators.get_estimator("gradient"),
    Factors(0.3),
)
"""What a saved state goes on with."""


@given(
    name=st.sampled_from(SCHEDULERS),
    estimator=st.sampled_from(sorted(estimators.ESTIMATORS)),
    steps=st.integers(4, 14),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_cut_anywhere_written_read_and_resumed_equals_the_uncut_run(
    name: str, estimator: str, steps: int, data: st.DataObject
) -> None:
    s = data.draw(st.integers(2, steps), "s")
    params = ECDiffParams(
        p=data.draw(st.integers(2, s), "p"), k=data.draw(st.integers(0, 4), "k"), alpha=0.3, s=s
    )
    handoff = data.draw(st.sampled_from(["aligned", "exact"]), "handoff")
    used = estimators.get_estimator(estimator)
    loop = (plan(params, steps, handoff, used), cloud, edge, used, params.factors(used))
    begun = begin(name, steps)
    uncut = advance(begun, *loop)
    assert uncut.latents.isfinite().all()
    cut = data.draw(st.integers(0, steps), "cut")
    half = from_bytes(to_bytes(advance(begun, *loop, until=cut)))
    assert half.step == cut
    assert torch.equal(advance(half, *loop).latents, uncut.latents)


def test_a_forgotten_history_would_show() -> None:
    """The property above can fail: without the scheduler's history the end is another one."""
    loop = (
        plan(ECDiffParams.cloud_only(10), 10),
        cloud,
        edge,
        estimators.get_estimator("gradient"),
        Factors(1.0),
    )
    begun = begin("DPMSolverMultistepScheduler", 10)
    half = from_bytes(to_bytes(advance(begun, *loop, until=5)))
    half.scheduler.model_outputs = [None, None]
    half.scheduler.lower_order_nums = 0
    assert not torch.equal(advance(half, *loop).latents, advance(begun, *loop).latents)


def half_way() -> SamplerState:
    """What ``data/state_v1.pt`` holds, by ``to_bytes``: amid approximated steps, with two histories."""
    return advance(begin("DPMSolverMultistepScheduler", 10), *SMALL, until=4)


def test_version_1_loads_forever() -> None:
    kept = from_bytes((Path(__file__).parent / "data" / "state_v1.pt").read_bytes())
    assert kept.step == 4
    torch.testing.assert_close(kept.latents, half_way().latents)
    torch.testing.assert_close(kept.noise.delta, half_way().noise.delta)
    torch.testing.assert_close(advance(kept, *SMALL).latents, advance(half_way(), *SMALL).latents)


def test_dtypes_stay() -> None:
    state = start(torch.randn(1, 4, 4, 4, dtype=torch.bfloat16), DDIMScheduler(), 4)
    state = advance(
        state,
        plan(ECDiffParams.cloud_only(4), 4),
        cloud,
        edge,
        estimators.get_estimator("gradient"),
        Factors(1.0),
    )
    again = from_bytes(to_bytes(state))
    assert again.latents.dtype is torch.bfloat16
    assert again.noise.eps is not None
    assert again.noise.eps.dtype is torch.float32


def test_the_scheduler_goes_on_in_the_dtype_that_it_began_in() -> None:
    begun = start(torch.randn(1, 4, 4, 4).half(), DDIMScheduler(clip_sample=False), 4, torch.float32)
    loop = (
        plan(ECDiffParams.cloud_only(4), 4),
        in_float32,
        edge,
        estimators.get_estimator("gradient"),
        Factors(1.0),
    )
    half = from_bytes(to_bytes(advance(begun, *loop, until=2)))
    assert half.latents.dtype is torch.float16
    assert torch.equal(advance(half, *loop).latents, advance(begun, *loop).latents)
    rounded = replace(half, noise_dtype=None)
    assert not torch.equal(advance(rounded, *loop).latents, advance(begun, *loop).latents)


def in_float32(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return latents.float() * 0.3 + 0.01


def without_a_noise_dtype(**instead: str) -> bytes:
    """As they were written before states had one, or with something else in its place."""
    tree = torch.load(io.BytesIO(to_bytes(begin("DDIMScheduler", 4))), weights_only=True)
    del tree["noise_dtype"]
    buffer = io.BytesIO()
    torch.save({**tree, **instead}, buffer)
    return buffer.getvalue()


def test_states_of_earlier_versions_have_the_latents_dtype() -> None:
    assert from_bytes(without_a_noise_dtype()).noise_dtype is None


def of_another_version() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format_version": 3}, buffer)
    return buffer.getvalue()


class Payload:
    """What a file must not be able to make: an object of any class."""


def with_an_object() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format_version": 1, "step": Payload()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "These 0 bytes hold no sampler state"),
        (b"not a state", "These 11 bytes hold no sampler state"),
        (to_bytes(begin("DDIMScheduler", 4))[:-200], "hold no sampler state"),
        (of_another_version(), "version 2 or an older one, got 3"),
        (with_an_object(), "hold no sampler state"),
        (without_a_noise_dtype(noise_dtype="float32"), "noise_dtype is 'float32'"),
    ],
    ids=["empty", "text", "cut off", "newer", "an object", "a name for a dtype"],
)
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(SavedStateError, match=message) as caught:
        from_bytes(data)
    assert "\n" not in str(caught.value)
