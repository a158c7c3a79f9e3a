"""Generations under way share calls, and none depends on its company."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from ecdiff_core import ECDiffPipeline
from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.families.guidance import Guidance, guide
from ecdiff_core.models.memory import OutOfMemoryError
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.plan import Action
from ecdiff_core.sampling.sampler import Call, SamplerState, advance, trajectory
from ecdiff_core.serving.engine import Engine, Steps
from ecdiff_core.serving.worker import DeadlineError, Job, StoppedError, Worker

NOBODY = Conditioning({"embeds": torch.zeros(1, 1)}, 1)


def asking(timesteps: list[int], log: list[float] | None = None) -> Steps:
    """Asks at each timestep; its result is the sum of the answers."""
    total = 0.0
    for step, timestep in enumerate(timesteps):
        answer = yield Call(step, Action.CLOUD, torch.full((1, 2), float(timestep)), torch.tensor(timestep))
        total += float(answer[0, 0])
        if log is not None:
            log.append(total)
    return total


class Model:
    """Answers with latents plus timestep; keeps the timesteps of every call."""

    def __init__(self, fits: int = 99) -> None:
        self.calls: list[list[int]] = []
        self.fits = fits

    def __call__(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        if len(latents) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        assert conditioning.size == len(latents)
        self.calls.append(timestep.reshape(-1).tolist())
        return latents + timestep.reshape(-1, 1)


def finish(engine: Engine) -> dict[object, object]:
    ended: dict[object, object] = {}
    while len(engine):
        ended |= engine.step()
    return ended


def test_requests_at_different_steps_share_calls_and_new_ones_join_at_the_next() -> None:
    model = Model()
    engine = Engine(model, most=8)
    engine.add("a", asking([9, 7, 5]), NOBODY)
    assert engine.step() == {}
    engine.add("b", asking([9, 4]), NOBODY)
    assert finish(engine) == {"a": 42.0, "b": 26.0}
    assert model.calls == [[9], [7, 9], [5, 4]]


def test_a_batch_has_no_more_than_its_bound_and_the_oldest_go_first() -> None:
    model = Model()
    engine = Engine(model, most=2)
    for key in "abc":
        engine.add(key, asking([1, 2]), NOBODY)
    assert engine.step() == {}
    assert engine.step().keys() == {"a", "b"}
    assert finish(engine) == {"c": 6.0}
    assert model.calls == [[1, 1], [2, 2], [1], [2]]


def test_models_with_one_timestep_a_call_get_those_at_equal_steps_together() -> None:
    model = Model()
    engine = Engine(model, most=8, timestep_per_sample=False)
    engine.add("a", asking([9, 7]), NOBODY)
    engine.step()
    engine.add("b", asking([9]), NOBODY)
    engine.add("c", asking([7]), NOBODY)
    assert finish(engine) == {"a": 32.0, "b": 18.0, "c": 14.0}
    assert model.calls == [[9], [7], [9]]


def test_one_that_is_dropped_is_asked_no_more_and_one_without_calls_has_ended() -> None:
    model = Model()
    engine = Engine(model, most=8)
    engine.add("a", asking([9, 7]), NOBODY)
    engine.step()
    engine.drop("a")
    engine.drop("never there")
    assert len(engine) == 0
    assert engine.add("b", asking([]), NOBODY) == {"b": 0.0}
    assert model.calls == [[9]]


def test_one_that_fails_leaves_the_others_alone() -> None:
    def failing() -> Steps:
        yield from asking([9])
        raise ECDiffError("Not finite.", key="dtype")

    engine = Engine(Model(), most=8)
    engine.add("a", failing(), NOBODY)
    engine.add("b", asking([9]), NOBODY)
    ended = engine.step()
    assert isinstance(ended["a"], ECDiffError)
    assert ended["b"] == 18.0


def test_batches_are_halved_where_memory_runs_out() -> None:
    model = Model(fits=2)
    engine = Engine(model, most=4)
    for key in "abcd":
        engine.add(key, asking([1]), NOBODY)
    assert engine.step() == dict.fromkeys("abcd", 2.0)
    assert (model.calls, engine.most) == ([[1, 1], [1, 1]], 2)
    alone = Engine(Model(fits=0), most=4)
    alone.add("a", asking([1]), NOBODY)
    with pytest.raises(OutOfMemoryError):
        alone.step()


PROMPTS = ("a small red ring", "a large blue star on a dark background", "two green squares")
BOUND = 1e-5
"""Of what company changes in float32: of the largest latent (1e-6 was measured), and of white (3e-6)."""


def test_an_image_does_not_depend_on_its_company(pipe: ECDiffPipeline) -> None:
    """Three generations, each joining a call later, against each alone; approximated steps are no calls."""
    plan = pipe.plan("ecdiff")
    sizes: list[int] = []
    engine = Engine(lambda x, t, prompts: pipe.bind_cloud(prompts)(x, t), 8, on_batch=sizes.append)
    begun = [
        pipe.prepare([prompt], generator=torch.Generator().manual_seed(i)) for i, prompt in enumerate(PROMPTS)
    ]
    until = plan.first_edge_step
    ended: dict[object, SamplerState] = {}
    for i, one in enumerate(begun):
        steps = trajectory(one.start, plan, pipe.estimator, pipe.config.factors, until)
        engine.add(i, steps, one.conditioning)
        ended |= engine.step()
    while len(engine):
        ended |= engine.step()
    assert sum(sizes) == len(PROMPTS) * plan.until(until).cloud_calls
    assert max(sizes) == len(PROMPTS)
    for i, one in enumerate(begun):
        loop = (plan, *pipe.bind(one.conditioning), pipe.estimator, pipe.config.factors)
        alone = advance(one.start, *loop, until=until)
        assert (ended[i].latents - alone.latents).abs().max() < BOUND * alone.latents.abs().max()
        again = advance(ended[i], *loop).latents
        images = [
            np.asarray(pipe.pair.family.decode(latents)) for latents in (again, advance(alone, *loop).latents)
        ]
        assert np.abs(images[0] - images[1]).max() < BOUND


def test_alone_it_is_the_same_to_the_bit(pipe: ECDiffPipeline) -> None:
    begun = pipe.prepare(PROMPTS[:1], generator=torch.Generator().manual_seed(0))
    engine = Engine(lambda x, t, prompts: pipe.bind_cloud(prompts)(x, t), 8)
    loop = (pipe.plan(), *pipe.bind(begun.conditioning), pipe.estimator, pipe.config.factors)
    engine.add(0, trajectory(begun.start, loop[0], *loop[3:], until=4), begun.conditioning)
    ended = finish(engine)
    assert torch.equal(ended[0].latents, advance(begun.start, *loop, until=4).latents)  # type: ignore[attr-defined]


def test_a_guidance_scale_that_varies_is_each_samples_own() -> None:
    guidance = Guidance(6.0, dynamic_steps=50)
    timesteps = torch.tensor([999, 499, 19])
    output = torch.arange(12.0).reshape(6, 2)
    together = guide(output, guidance.at(timesteps))
    for row, timestep in enumerate(timesteps):
        alone = guide(output[[row, row + 3]], guidance.at(timestep))
        torch.testing.assert_close(together[row], alone[0])
    assert guidance.at(timesteps[0]) != guidance.at(timesteps[2])


class NoGauges:
    def queue(self, waiting: int, running: int) -> None: ...


def test_an_idle_worker_s_estimate_is_that_of_one_image_alone() -> None:
    """A step of a full batch would else refuse every deadline, for nobody would be let in to learn better."""
    worker = Worker(Engine(Model(), 4), 8, NoGauges())
    assert worker.estimate(10) == 0
    worker.alone.extend([0.1, 0.3, 0.2])
    worker.seconds_per_step = 5.0
    assert worker.estimate(10) == pytest.approx(10 * 0.2)
    worker.submit(Job(lambda: (asking([1, 2, 3]), NOBODY), lambda total: total, 3, seconds=1.0))
    assert worker.estimate(10) == pytest.approx((3 / 4 + 10) * 5.0)
    with pytest.raises(DeadlineError):
        worker.submit(Job(lambda: (asking([1]), NOBODY), lambda total: total, 1, seconds=1.0))


def test_a_worker_keeps_the_seconds_of_steps_for_one_image_alone() -> None:
    worker = Worker(Engine(Model(), 4), 8, NoGauges())
    jobs = [Job(lambda: (asking([1, 2, 3]), NOBODY), lambda total: total, 3) for _ in range(2)]
    for job in jobs:
        worker.submit(job)
    worker.start()
    assert [job.result.result(timeout=20) for job in jobs] == [12, 12]
    assert not worker.alone
    last = Job(lambda: (asking([1, 2, 3]), NOBODY), lambda total: total, 3)
    worker.submit(last)
    assert last.result.result(timeout=20) == 12
    assert worker.stop(20)
    assert len(worker.alone) == 3


def test_a_call_that_does_not_end_holds_nobody_who_stops() -> None:
    is_held, may_end = threading.Event(), threading.Event()

    def held(total: int) -> int:
        is_held.set()
        assert may_end.wait(20)
        return total

    worker = Worker(Engine(Model(), 1), 8, NoGauges())
    first, second = (Job(lambda: (asking([1]), NOBODY), held, 2) for _ in range(2))
    worker.submit(first)
    worker.submit(second)
    worker.start()
    assert is_held.wait(20)
    assert not worker.stop(0.01)
    may_end.set()
    assert first.result.result(timeout=20) == 2
    with pytest.raises(StoppedError):
        second.result.result(timeout=20)
