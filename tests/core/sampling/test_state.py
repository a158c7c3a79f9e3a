"""Of a state, nothing but the rows that its layout names is needed to go on as if it had never been cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.batching import rows_of, with_rows
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import SamplerState, advance, start
from ecdiff_core.sampling.schedulers import build_scheduler
from ecdiff_core.sampling.state import Layout, layout_at
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


def begin(name: str, steps: int, seed: int = 0) -> SamplerState:
    scheduler = build_scheduler(name, models.scheduler())
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    asked = steps - isinstance(scheduler, PNDMScheduler)
    return start(latents * scheduler.init_noise_sigma, scheduler, asked)


GRADIENT = estimators.get_estimator("gradient")


@given(
    name=st.sampled_from(SCHEDULERS),
    estimator=st.sampled_from(sorted(estimators.ESTIMATORS)),
    steps=st.integers(4, 14),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_cut_anywhere_and_filled_with_the_needed_rows_equals_the_uncut_run(
    name: str, estimator: str, steps: int, data: st.DataObject
) -> None:
    s = data.draw(st.integers(2, steps), "s")
    used = estimators.get_estimator(estimator)
    extended = {} if used.fills_with_edge else {"edge_k": data.draw(st.integers(0, 2), "edge_k")}
    if data.draw(st.booleans(), "residual") and not used.fills_with_edge:
        extended["residual"] = 0.7
    params = ECDiffParams(
        p=data.draw(st.integers(2, s), "p"), k=data.draw(st.integers(0, 4), "k"), alpha=0.3, s=s, **extended
    )
    handoff = data.draw(st.sampled_from(["aligned", "exact"]), "handoff")
    steps_of = plan(params, steps, handoff, used)
    loop = (steps_of, cloud, edge, used, params.factors(used))
    begun = begin(name, steps)
    uncut = advance(begun, *loop)
    assert uncut.latents.isfinite().all()
    cut = data.draw(st.integers(0, steps), "cut")
    # The receiver knows scheduler and plan, not the noise that the sender began with.
    layout = layout_at(cut, begin(name, steps, seed=9), steps_of, used, loop[4])
    half = layout.fill(layout.take(advance(begun, *loop, until=cut)))
    assert half.step == cut
    assert torch.equal(advance(half, *loop).latents, uncut.latents)


def layout(name: str, schedule: str, cut: int) -> Layout:
    steps = Plan.from_schedule(schedule)
    return layout_at(cut, begin(name, steps.num_steps), steps, GRADIENT, Factors(0.3, 0.5))


@pytest.mark.parametrize(
    ("name", "schedule", "cut", "needed"),
    [
        ("DDIMScheduler", "3C2A1C4E", 6, ("latents",)),
        ("DDIMScheduler", "3C2A1C1E1A2E", 6, ("latents", "noise.eps")),
        ("DDIMScheduler", "3C2A1B4M", 6, ("latents", "cloud_call.latents", "cloud_call.noise")),
        ("DDIMScheduler", "10C", 10, ("latents",)),
        ("DPMSolverMultistepScheduler", "3C2A1C4E", 6, ("latents", "scheduler.model_outputs.1")),
        ("DPMSolverMultistepScheduler", "3C2A1C4E", 0, ("latents",)),
    ],
)
def test_what_is_needed_is_what_the_paper_sends_and_the_schedulers_history(
    name: str, schedule: str, cut: int, needed: tuple[str, ...]
) -> None:
    assert layout(name, schedule, cut).needed == needed


def test_a_forgotten_row_would_show() -> None:
    """The property above can fail: without the scheduler's history the end is another one."""
    steps = Plan.from_schedule("10C")
    loop = (steps, cloud, edge, GRADIENT, Factors(1.0))
    begun = begin("DPMSolverMultistepScheduler", 10)
    found = layout_at(5, begun, *loop[:1], *loop[3:])
    lacking = replace(found, needed=("latents",))
    half = lacking.fill(lacking.take(advance(begun, *loop, until=5)))
    assert not torch.equal(advance(half, *loop).latents, advance(begun, *loop).latents)


def test_the_scheduler_goes_on_in_the_dtype_that_it_began_in() -> None:
    begun = start(torch.randn(1, 4, 4, 4).half(), DDIMScheduler(clip_sample=False), 4, torch.float32)
    loop = (Plan.from_schedule("4C"), in_float32, edge, GRADIENT, Factors(1.0))
    found = layout_at(2, begun, *loop[:1], *loop[3:])
    half = found.fill(found.take(advance(begun, *loop, until=2)))
    assert half.latents.dtype is torch.float16
    assert torch.equal(advance(half, *loop).latents, advance(begun, *loop).latents)
    rounded = replace(half, noise_dtype=None)
    assert not torch.equal(advance(rounded, *loop).latents, advance(begun, *loop).latents)


def in_float32(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return latents.float() * 0.3 + 0.01


def test_rows_go_by_where_they_lie() -> None:
    state = advance(
        begin("DPMSolverMultistepScheduler", 10),
        Plan.from_schedule("10C"),
        cloud,
        edge,
        GRADIENT,
        Factors(1.0),
        3,
    )
    rows = rows_of(state)
    assert {"latents", "noise.eps", "noise.real.2", "scheduler.model_outputs.1"} <= rows.keys()
    assert "scheduler.alphas_cumprod" not in rows
    doubled = with_rows(state, {name: row * 2 for name, row in rows.items()})
    assert torch.equal(doubled.scheduler.model_outputs[1], 2 * state.scheduler.model_outputs[1])
    assert torch.equal(doubled.noise.real[0], 2 * state.noise.real[0])
    assert doubled.step == 3
