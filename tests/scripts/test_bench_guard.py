"""The guard of the benchmark: what it asks for more, and that it changes nothing where it does not speak."""

from __future__ import annotations

import pytest
import torch

from bench_guard import limits, never, run, shortened
from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.sampling.plan import Plan


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
    highest = max(found[5] for found in quiet.distances)
    assert limits(quiet, 1.0)[5] == pytest.approx(highest)
