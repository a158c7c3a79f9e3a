"""The guard of the benchmark: what it asks for more, and that it changes nothing where it does not speak."""

from __future__ import annotations

import pytest
import torch

from bench_guard import at_random, cases, limits, windows_at_random
from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.sampling.plan import Plan
from guarded_runs import never, run, shortened


@pytest.mark.parametrize(
    ("step", "schedule"), [(7, "3C4A1C2A1C1A1C2E"), (2, "3C2A1C1A1C4A1C2E"), (12, "3C4A1C4A1C2E")]
)
def test_the_window_after_a_step_gets_a_call_in_its_middle(step: int, schedule: str) -> None:
    assert shortened(Plan.from_schedule("3C4A1C4A1C2E"), step).schedule == schedule


def test_only_windows_that_are_off_cost_a_call(tiny_config: TunedConfig) -> None:
    pipe = ECDiffPipeline.from_config(tiny_config, device="cpu")
    prompts, seeds = ["a red ring", "a blue star"], (3, 4)
    begun = pipe.prepare(prompts, generator=[torch.Generator().manual_seed(seed) for seed in seeds])
    own = pipe(prompts, generator=[torch.Generator().manual_seed(seed) for seed in seeds]).latents
    quiet = run(pipe, begun, pipe.plan(), never)  # 3C2A1C2A1C3E
    torch.testing.assert_close(quiet.latents, own, atol=1e-5, rtol=0)
    assert quiet.calls == [5, 5]
    assert [list(found) for found in quiet.distances] == [[5, 8]] * 2
    off = run(pipe, begun, pipe.plan(), lambda number, *_: number == 1)
    assert off.calls == [5, 6]
    torch.testing.assert_close(off.latents[0], own[0], atol=1e-5, rtol=0)
    assert not torch.allclose(off.latents[1], own[1], atol=1e-4)
    chance = run(pipe, begun, pipe.plan(), windows_at_random(off, pipe.plan()))
    assert sorted(chance.calls) == [5, 6]
    highest = max(found[5] for found in quiet.distances)
    assert limits(quiet, 1.0)[5] == pytest.approx(highest)


def test_as_many_calls_for_some_are_as_many_on_average() -> None:
    by_calls = [torch.zeros(8), torch.full((8,), 0.5), torch.ones(8)]
    assert at_random(by_calls, 0.25) == pytest.approx({"mean": 0.125, "tenth": 0.0, "worst": 0.0})
    assert at_random(by_calls, 1.0) == pytest.approx({"mean": 0.5, "tenth": 0.5, "worst": 0.5})
    assert at_random(by_calls, 1.75)["mean"] == pytest.approx(0.5 + 0.75 * 0.5)


def test_plans_of_the_cloud_alone_have_the_calls_that_they_are_named_by() -> None:
    found = cases(TunedConfig.load("shapes"), cloud_alone=True)
    calls = {
        name: [one.plan().cloud_calls for one in (case.config, *case.larger)] for name, case in found.items()
    }
    assert calls == {"p=3 k=4": [12], "8 placed": [8, 9, 10]}
    assert all(case.config.plan().edge_calls == 0 for case in found.values())
