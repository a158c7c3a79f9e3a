"""The loop: obeys the plan, can be stopped, forked and resumed, and equals the published algorithm."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.models.families.family import Size
from ecdiff_core.models.families.guidance import Guidance
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.batching import take
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Action, Handoff, Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_core.sampling.sampler import CloudCall, Denoiser, SamplerState, advance, start
from ecdiff_core.sampling.schedulers import build_scheduler
from shapes_pair import models

from ...refusals import refused

GRADIENT = estimators.get_estimator("gradient")
SCHEDULERS = [
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
]
MULTISTEP = [DPMSolverMultistepScheduler, UniPCMultistepScheduler]
T = 12
PLAN = plan(ECDiffParams(p=3, k=2, alpha=0.3, s=9), T)  # 3C2A1C2A1C3E


def cloud(x: Tensor, t: Tensor) -> Tensor:
    """A toy model, nonlinear and elementwise, so that a batch equals its samples one by one."""
    return torch.tanh(x) + 0.3 * torch.sin(5 * x + t / 300)


def edge(x: Tensor, t: Tensor) -> Tensor:
    """Another one, not far off."""
    return 0.9 * torch.tanh(1.1 * x) + 0.2 * torch.sin(4 * x + t / 250)


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> SchedulerMixin:
    return build_scheduler(request.param, models.scheduler())


def begin(scheduler: SchedulerMixin, num_steps: int = T, batch: int = 2) -> SamplerState:
    """The state before ``num_steps`` steps; PNDM is asked for one less."""
    asked = num_steps - isinstance(scheduler, PNDMScheduler)
    return start(latents(batch) * scheduler.init_noise_sigma, scheduler, asked)


def latents(size: int = 2) -> Tensor:
    return torch.randn(size, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of anything that a state is made of."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, SamplerState | estimators.NoiseState | CloudCall | SchedulerMixin):
        return type(a) is type(b) and same(list(vars(a).items()), list(vars(b).items()))
    return type(a) is type(b) and bool((a == b) if not hasattr(a, "shape") else (a == b).all())


def test_same_sees_a_changed_scheduler_history() -> None:
    one = start(latents(), DPMSolverMultistepScheduler(), T)
    other = copy.deepcopy(one)
    assert same(one, other)
    other.scheduler.model_outputs[0] = latents()
    assert not same(one, other)


MIXED = Plan.from_schedule("2C1A1B1M2A1C1B1M1A1M")
"""Both models in turns, each approximated after the other, two residuals."""


def _mixed_by_hand(
    begun: SamplerState, steps: Plan, alpha: float, residual: float, own: Denoiser, other: Denoiser
) -> list[Tensor]:
    """The plan's formula, word by word, eq. 3 to 6 over the noises that were used; x after every step."""
    scheduler, x = copy.deepcopy(begun.scheduler), begun.latents
    used: list[Tensor] = []
    trace: list[Tensor] = []
    apart, delta = torch.zeros_like(x), torch.zeros_like(x)
    for i, letter in enumerate(steps.letters):
        t = scheduler.timesteps[i]
        told = scheduler.scale_model_input(x, t)
        if letter in "CB":
            eps = own(told, t)
            apart = eps - other(told, t)
        elif letter in "EM":
            eps = other(told, t) + (residual * apart if letter == "M" else 0)
        else:
            if steps.letters[i - 1] != "A":
                delta = used[-1] - used[-2]
                if steps.letters[i - 2] == "A":
                    delta = alpha * delta
            eps = used[-1] + delta
        used.append(eps)
        x = scheduler.step(eps, t, x).prev_sample
        trace.append(x)
    return trace


@pytest.mark.parametrize("residual", [0.0, 0.4, 1.0])
def test_three_actions_in_any_order_equal_the_formula(scheduler: SchedulerMixin, residual: float) -> None:
    begun = begin(scheduler)
    state = begun
    for i, expected in enumerate(_mixed_by_hand(begun, MIXED, 0.3, residual, cloud, edge)):
        state = advance(state, MIXED, cloud, edge, GRADIENT, Factors(0.3, residual), until=i + 1)
        torch.testing.assert_close(state.latents, expected, rtol=0, atol=2e-5)


def test_residual_factors_over_a_batch_equal_one_by_one() -> None:
    begun = start(latents(3), DDIMScheduler(clip_sample=False), T)
    factors = [0.0, 0.5, 1.0]
    together = advance(begun, MIXED, cloud, edge, GRADIENT, Factors(0.3, torch.tensor(factors))).latents
    for i, factor in enumerate(factors):
        alone = advance(take(begun, [i]), MIXED, cloud, edge, GRADIENT, Factors(0.3, factor)).latents
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)
    assert not torch.equal(together[0], together[2])


def test_until_the_residual_is_needed_it_leaves_no_trace() -> None:
    begun = start(latents(), DDIMScheduler(), T)
    plain, corrected = Plan.from_schedule("2C1A1C8E"), Plan.from_schedule("2C1A1B8M")
    states = [
        advance(begun, steps, cloud, edge, GRADIENT, Factors(0.3, residual), until=4)
        for steps, residual in ((plain, 0.0), (corrected, 1.0))
    ]
    assert same(*states)
    ends = [advance(states[0], one, cloud, edge, GRADIENT, Factors(0.3, 1.0)) for one in (plain, corrected)]
    assert not torch.equal(ends[0].latents, ends[1].latents)


def test_obeys_the_plan() -> None:
    calls: list[tuple[str, int]] = []

    def recorder(name: str) -> Denoiser:
        def model(x: Tensor, t: Tensor) -> Tensor:
            calls.append((name, int(t)))
            return torch.zeros_like(x)

        return model

    seen: list[tuple[int, Action]] = []
    begun = start(latents(), DDIMScheduler(), T)
    timesteps = begun.scheduler.timesteps.tolist()
    done = advance(
        begun,
        PLAN,
        recorder("C"),
        recorder("E"),
        GRADIENT,
        Factors(0.3),
        on_step=lambda *s: seen.append(s[:2]),
    )
    assert done.step == T
    assert seen == list(enumerate(PLAN.steps))
    real = [(a.value, t) for a, t in zip(PLAN.steps, timesteps, strict=True) if a is not Action.APPROX]
    assert calls == real


def test_asks_both_models_where_a_residual_is_needed() -> None:
    """The models' noises at every step are known, so the sums are."""
    used = estimators.get_estimator("edge")
    steps = plan(ECDiffParams(p=2, k=2, alpha=0.5, s=5), 7, "aligned", used)  # 1C1B2M1C2E
    begun = start(latents(), DDIMScheduler(clip_sample=False), 7)
    timesteps = begun.scheduler.timesteps.tolist()
    calls: list[tuple[str, int]] = []

    def model(name: str, factor: float) -> Denoiser:
        def call(x: Tensor, t: Tensor) -> Tensor:
            calls.append((name, timesteps.index(int(t))))
            return torch.full_like(x, factor * (timesteps.index(int(t)) + 1))

        return call

    seen: list[float] = []
    advance(
        begun,
        steps,
        model("C", 10.0),
        model("E", 1.0),
        used,
        Factors(1.0, residual=0.5),
        on_step=lambda *step: seen.append(step[2].mean().item()),
    )
    assert calls == [("C", 0), ("C", 1), ("E", 1), ("E", 2), ("E", 3), ("C", 4), ("E", 5), ("E", 6)]
    assert seen == [10, 20, 3 + 0.5 * (20 - 2), 4 + 0.5 * (20 - 2), 50, 6, 7]
    assert len(calls) == steps.cloud_calls + steps.edge_calls


def noted(
    state: SamplerState, steps: Plan, estimator: estimators.Estimator, until: int = T
) -> tuple[SamplerState, list[Tensor]]:
    """The state at ``until``, and the noises of the steps until there."""
    noises: list[Tensor] = []
    state = advance(
        state,
        steps,
        cloud,
        edge,
        estimator,
        Factors(0.3, 0.8),
        until=until,
        on_step=lambda *step: noises.append(step[2]),
    )
    return state, noises


@pytest.mark.parametrize("name", [*estimators.ESTIMATORS, "mixed"])
def test_stops_anywhere_and_resumes(scheduler: SchedulerMixin, name: str) -> None:
    estimator = estimators.ESTIMATORS.get(name, GRADIENT)
    params = ECDiffParams(p=3, k=2, alpha=0.3, s=9)
    steps = MIXED if name == "mixed" else plan(params, T, "aligned", estimator)
    begun = begin(scheduler)
    uncut, uncut_noises = noted(begun, steps, estimator)
    assert uncut.latents.isfinite().all()
    for cut in range(T + 1):
        half, first_noises = noted(begun, steps, estimator, until=cut)
        assert half.step == cut == len(first_noises)
        whole, last_noises = noted(half, steps, estimator)
        assert same(whole, uncut)
        assert same(first_noises + last_noises, uncut_noises)


def test_one_step_at_a_time_equals_straight_through(scheduler: SchedulerMixin) -> None:
    begun = begin(scheduler)
    state = begun
    for step in range(T):
        state = advance(state, PLAN, cloud, edge, GRADIENT, Factors(0.3), until=step + 1)
    assert same(state, advance(begun, PLAN, cloud, edge, GRADIENT, Factors(0.3)))


@pytest.mark.parametrize("at", [0, 3, 4, 6, 9, 11])
def test_forks_leave_the_state_and_equal_uncut_runs(scheduler: SchedulerMixin, at: int) -> None:
    begun = begin(scheduler)

    def run(steps: Plan, alpha: float, state: SamplerState, until: int | None = None) -> SamplerState:
        return advance(state, steps, cloud, edge, GRADIENT, Factors(alpha), until=until)

    kept = run(PLAN, 0.3, begun, until=at)
    before = copy.deepcopy(kept)
    schedules = [
        plan(ECDiffParams(p=3, k=k, alpha=0.3, s=s), T, "exact")
        for k, s in ((2, 12), (1, 7), (5, 10), (0, 3))
    ]
    for alpha in (0.1, 0.9):
        for steps in (PLAN, *schedules):
            fork = run(steps, alpha, kept)
            assert same(kept, before)
            if steps.steps[:at] == PLAN.steps[:at] and at <= 6:  # alpha acts from step 6 on
                assert same(fork, run(steps, alpha, begun))
    assert same(run(PLAN, 0.3, kept), run(PLAN, 0.3, begun))


def test_alphas_share_everything_up_to_the_first_correction() -> None:
    begun = start(latents(), DDIMScheduler(clip_sample=False), T)
    shared = 6  # 3C2A1C: alpha acts in the step after
    low, high = (advance(begun, PLAN, cloud, edge, GRADIENT, Factors(a), until=shared) for a in (0.1, 0.9))
    assert same(low, high)
    low, high = (advance(low, PLAN, cloud, edge, GRADIENT, Factors(a), until=shared + 1) for a in (0.1, 0.9))
    assert not torch.equal(low.latents, high.latents)


@pytest.mark.parametrize("scheduler_class", MULTISTEP)
def test_dropping_a_multistep_history_would_show(scheduler_class: type[SchedulerMixin]) -> None:
    """What makes the tests above mean something: the scheduler's history is needed to go on."""
    begun = start(latents(), scheduler_class(), T)
    half = advance(begun, PLAN, cloud, edge, GRADIENT, Factors(0.3), until=6)
    forgetful = SamplerState(
        half.step, half.latents, half.noise, start(latents(), scheduler_class(), T).scheduler
    )
    uncut = advance(half, PLAN, cloud, edge, GRADIENT, Factors(0.3)).latents
    assert not torch.allclose(
        advance(forgetful, PLAN, cloud, edge, GRADIENT, Factors(0.3)).latents, uncut, atol=1e-4
    )


def test_alpha_over_a_batch_equals_one_by_one(scheduler: SchedulerMixin) -> None:
    alphas = [0.1, 0.3, 0.9]
    noise_to_start_from = latents(3) * scheduler.init_noise_sigma
    begun = start(noise_to_start_from, scheduler, T)
    together = advance(begun, PLAN, cloud, edge, GRADIENT, Factors(torch.tensor(alphas))).latents
    for i, alpha in enumerate(alphas):
        begun = start(noise_to_start_from[i : i + 1], scheduler, T)
        alone = advance(begun, PLAN, cloud, edge, GRADIENT, Factors(alpha)).latents
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
    assert not torch.equal(together[0], together[2])


def _algorithm_1(
    x: Tensor, t: Tensor, scheduler: SchedulerMixin, p: int, k: int, alpha: float, s: int
) -> list[Tensor]:
    """Algorithm 1, word by word (its last window is cut where the timesteps end); x after every step."""
    trace: list[Tensor] = []
    history: list[Tensor] = []

    def real(model: Denoiser) -> Tensor:
        return model(scheduler.scale_model_input(x, t[len(trace)]), t[len(trace)])

    def step(eps: Tensor) -> Tensor:
        trace.append(scheduler.step(eps, t[len(trace)], x).prev_sample)
        return trace[-1]

    for _ in range(p):
        eps = real(cloud)
        history += [eps]
        x = step(eps)
    delta = history[-1] - history[-2]
    while True:
        for _ in range(k):
            if len(trace) == len(t):
                return trace
            approximated = history[-1] + delta
            history += [approximated]
            x = step(approximated)
        if len(trace) == len(t):
            return trace
        eps = real(cloud)
        history += [eps]
        x = step(eps)
        delta = alpha * (history[-1] - history[-2])
        if len(trace) >= s:
            break
    while len(trace) < len(t):
        x = step(real(edge))
    return trace


def _authors_sampler(
    x: Tensor, t: Tensor, scheduler: SchedulerMixin, p: int, k: int, alpha: float, s: int
) -> list[Tensor]:
    """The rule of the authors' released sampler: per step, with a hard cut at s."""
    trace: list[Tensor] = []
    history: list[Tensor] = []
    for i in range(len(t)):
        if i >= s:
            eps = edge(scheduler.scale_model_input(x, t[i]), t[i])
        elif i < p or (i + 1 - p) % (k + 1) == 0:
            eps = cloud(scheduler.scale_model_input(x, t[i]), t[i])
        else:
            if i == p:
                delta = history[-1] - history[-2]
            elif (i - p) % (k + 1) == 0:  # the step before was a correction
                delta = alpha * (history[-1] - history[-2])
            eps = history[-1] + delta
        history.append(eps)
        x = scheduler.step(eps, t[i], x).prev_sample
        trace.append(x)
    return trace


Reference = Callable[[Tensor, Tensor, SchedulerMixin, int, int, float, int], list[Tensor]]


@pytest.mark.parametrize(
    ("p", "k", "alpha", "s", "num_steps"),
    [
        (7, 2, 0.3, 34, 50),
        (7, 2, 0.3, 35, 50),
        (6, 5, 0.2, 30, 50),
        (10, 3, 0.2, 38, 50),
        (2, 1, 1.0, 5, 12),
        (4, 3, 0.7, 11, 12),  # capped: the window that would end after T
        (3, 0, 0.5, 8, 12),
        (2, 5, 0.1, 12, 12),
    ],
)
@pytest.mark.parametrize(
    ("handoff", "reference"),
    [("aligned", _algorithm_1), ("exact", _authors_sampler)],
    ids=["aligned", "exact"],
)
def test_equals_the_published_sampler_step_by_step(
    scheduler: SchedulerMixin,
    handoff: Handoff,
    reference: Reference,
    p: int,
    k: int,
    alpha: float,
    s: int,
    num_steps: int,
) -> None:
    begun = begin(scheduler, num_steps)
    theirs = copy.deepcopy(begun.scheduler)
    expected = reference(begun.latents, theirs.timesteps, theirs, p, k, alpha, s)
    steps = plan(ECDiffParams(p, k, alpha, s), num_steps, handoff)
    state = begun
    for i in range(num_steps):
        state = advance(state, steps, cloud, edge, GRADIENT, Factors(alpha), until=i + 1)
        assert torch.equal(state.latents, expected[i]), f"step {i} of {steps.schedule}"


def test_cloud_only_equals_a_plain_loop(scheduler: SchedulerMixin) -> None:
    begun = begin(scheduler)
    plain, x = copy.deepcopy(begun.scheduler), begun.latents
    for t in plain.timesteps:
        x = plain.step(cloud(plain.scale_model_input(x, t), t), t, x).prev_sample
    ours = advance(begun, plan(ECDiffParams.cloud_only(T), T), cloud, edge, GRADIENT, Factors(1.0))
    assert torch.equal(ours.latents, x)


@pytest.mark.parametrize("scheduler", [PNDMScheduler(), HeunDiscreteScheduler()])
def test_schedulers_of_several_calls_a_step_are_refused(scheduler: SchedulerMixin) -> None:
    """PNDM too where it begins with Runge-Kutta steps, which ``build_scheduler`` turns off."""
    name = type(scheduler).__name__
    with refused(ParamsError, key="scheduler", got=name, advice=re.compile("DDIMScheduler")):
        start(latents(), scheduler, T)


def test_more_steps_than_the_model_has_timesteps_are_refused(scheduler: SchedulerMixin) -> None:
    with refused(ParamsError, key="num_inference_steps", got=1001):
        start(latents(), scheduler, 1001)


def test_the_scheduler_that_is_given_is_left_alone(scheduler: SchedulerMixin) -> None:
    before = copy.deepcopy(scheduler)
    advance(begin(scheduler), PLAN, cloud, edge, GRADIENT, Factors(0.3))
    assert same(scheduler, before)


def test_advancing_to_where_it_stands_does_nothing() -> None:
    half = advance(start(latents(), DDIMScheduler(), T), PLAN, cloud, edge, GRADIENT, Factors(0.3), until=6)
    for until in (0, 5, 6):
        assert same(advance(half, PLAN, cloud, edge, GRADIENT, Factors(0.3), until=until), half)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_keep_a_float32_history(dtype: torch.dtype) -> None:
    seen: list[Tensor] = []
    begun = start(latents().to(dtype), DDIMScheduler(clip_sample=False), T)

    def half_cloud(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype is dtype
        return cloud(x.float(), t).to(dtype)

    done = advance(
        begun,
        PLAN,
        half_cloud,
        half_cloud,
        GRADIENT,
        Factors(0.3),
        on_step=lambda *step: seen.append(step[2]),
    )
    assert done.latents.dtype is dtype
    assert {eps.dtype for eps in seen} == {torch.float32}
    real = [eps for eps, action in zip(seen, PLAN.steps, strict=True) if action is not Action.APPROX]
    assert all(torch.equal(eps, eps.to(dtype).float()) for eps in real)
    last_estimate = seen[7]
    assert PLAN.steps[7] is Action.APPROX
    assert not torch.equal(last_estimate, last_estimate.to(dtype).float())


def test_no_gradients_are_kept() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))
    done = advance(
        start(latents(), DDIMScheduler(), T),
        PLAN,
        lambda x, t: x * weight,
        edge,
        GRADIENT,
        Factors(torch.tensor(0.3)),
    )
    assert not done.latents.requires_grad


@pytest.mark.parametrize("name", SCHEDULERS)
def test_real_models_stop_fork_and_resume(tiny_config: TunedConfig, name: str) -> None:
    pipe = ECDiffPipeline.from_config(tiny_config, device="cpu")
    family = pipe.pair.family
    conditioning = family.encode(["a small red ring in the center"], 3.0, Size(32, 32))
    models_of_pair = [
        family.bind(model, conditioning, Guidance(3.0)) for model in (pipe.pair.cloud, pipe.pair.edge)
    ]
    loop = (PLAN, *models_of_pair, GRADIENT)
    begun = begin(build_scheduler(name, family.scheduler), batch=1)
    uncut = advance(begun, *loop, Factors(0.3))
    kept = advance(begun, *loop, Factors(0.3), until=5)
    before = copy.deepcopy(kept)
    other = advance(kept, *loop, Factors(0.9))
    assert same(kept, before)
    assert same(advance(kept, *loop, Factors(0.3)), uncut)
    assert same(other, advance(begun, *loop, Factors(0.9)))
    assert not torch.equal(other.latents, uncut.latents)
