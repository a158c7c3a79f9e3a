"""Real steps as a list in place of p and k: what is accepted, what every step does, the YAML, the hook."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core import ECDiffPipeline, TunedConfig, apply_ecdiff
from ecdiff_core.errors import ConfigError, ParamsError
from ecdiff_core.hook.tracking import StepTracker
from ecdiff_core.sampling.estimators import ESTIMATORS, get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Action, Handoff
from ecdiff_core.sampling.plan_of_params import effective_s, plan

from ...hooking import PROMPT, assert_close, load, run, seeded, with_sampling
from ...refusals import refused

LISTED = (0, 1, 2, 4, 7)


def scheduled(s: int, schedule: tuple[int, ...] = LISTED) -> ECDiffParams:
    return ECDiffParams.scheduled(schedule, 0.5, s)


def letters(params: ECDiffParams, num_steps: int, handoff: Handoff = "aligned") -> str:
    return "".join(action.value for action in plan(params, num_steps, handoff).steps)


@pytest.mark.parametrize(
    ("s", "aligned", "exact"),
    [
        (0, "EEEEEEEEEEEE", "EEEEEEEEEEEE"),
        (2, "CCEEEEEEEEEE", "CCEEEEEEEEEE"),
        (4, "CCCACEEEEEEE", "CCCAEEEEEEEE"),  # aligned waits for step 4
        (5, "CCCACEEEEEEE", "CCCACEEEEEEE"),
        (6, "CCCACAACEEEE", "CCCACAEEEEEE"),
        (8, "CCCACAACEEEE", "CCCACAACEEEE"),
        (10, "CCCACAACAAEE", "CCCACAACAAEE"),  # no listed step is left to wait for
        (12, "CCCACAACAAAA", "CCCACAACAAAA"),
    ],
)
def test_step_by_step(s: int, aligned: str, exact: str) -> None:
    assert letters(scheduled(s), 12) == aligned
    assert letters(scheduled(s), 12, "exact") == exact


@given(
    p=st.integers(2, 12),
    k=st.integers(0, 5),
    s=st.integers(2, 20),
    handoff=st.sampled_from(["aligned", "exact"]),
)
def test_the_list_of_p_and_k_is_the_same_plan(p: int, k: int, s: int, handoff: Handoff) -> None:
    params = ECDiffParams(min(p, s), k, 0.5, s)
    listed = scheduled(s, params.real_steps(20))
    # Beyond the last correcting call p and k go on to T, a list ends at s.
    if s <= max(listed.schedule or ()) + 1:
        assert plan(listed, 20, handoff) == plan(params, 20, handoff)
    assert listed.warm_up >= params.warm_up


@given(
    listed=st.sets(st.integers(2, 29)).map(lambda steps: (0, 1, *sorted(steps))),
    s=st.integers(0, 30),
    handoff=st.sampled_from(["aligned", "exact"]),
)
def test_listed_steps_are_real_and_no_others(listed: tuple[int, ...], s: int, handoff: Handoff) -> None:
    steps = plan(scheduled(s, listed), 30, handoff)
    real = [step for step, action in enumerate(steps.steps) if action is Action.CLOUD]
    assert real == [step for step in listed if step < steps.handoff_step]
    assert steps.handoff_step >= s if handoff == "aligned" else steps.handoff_step == s
    assert effective_s(scheduled(steps.handoff_step, listed), 30, handoff) == steps.handoff_step


@pytest.mark.parametrize(
    ("schedule", "about"),
    [
        ((), {"got": [], "expected": "to start with step 0"}),
        ((1, 2), {"got": [1, 2], "expected": "to start with step 0"}),
        ((0, 1, 1), {"got": [0, 1, 1], "expected": "strictly increasing"}),
        ((0, 1, 7, 4), {"got": [0, 1, 7, 4], "expected": "strictly increasing"}),
        ((0, 1, -2), {"got": -2, "expected": "to be a whole number >= 0"}),
        ((0, 1.0), {"got": 1.0, "expected": "to be a whole number >= 0"}),
        ((0, True), {"got": True, "expected": "to be a whole number >= 0"}),
    ],
)
def test_refuses(schedule: tuple[int, ...], about: dict[str, Any]) -> None:
    with refused(ParamsError, key=re.compile("schedule"), **about):
        scheduled(5, schedule)


def test_p_and_k_or_a_schedule() -> None:
    for p, k in ((3, None), (None, 2), (3, 2)):
        with refused(ParamsError, key="p and k", got={"p": p, "k": k, "schedule": list(LISTED)}):
            ECDiffParams(p, k, 0.5, 8, LISTED)
        if None in (p, k):
            with refused(ParamsError, key="p" if p is None else "k", got=None):
                ECDiffParams(p, k, 0.5, 8)


def test_steps_that_the_generation_does_not_have() -> None:
    with refused(ParamsError, key="schedule", got=7, expected="within 0 … 6"):
        plan(scheduled(5), 7)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_as_many_real_steps_first_as_the_estimator_needs(name: str) -> None:
    estimator = get_estimator(name)
    jumping = scheduled(8, (0, 3, 6))
    if estimator.real_noises == 1:
        assert plan(jumping, 12, "aligned", estimator).cloud_calls == 3
    else:
        with refused(ParamsError, key="steps", got="1C2A1C2A1C1A4E", expected="real at [0, 1]"):
            plan(jumping, 12, "aligned", estimator)
    assert plan(replace(jumping, s=1), 12, "exact", estimator).schedule == "1C11E"  # nothing approximated


# The YAML.


def test_yaml_holds_the_list_and_neither_p_nor_k(tiny_config: TunedConfig) -> None:
    config = replace(tiny_config, params=scheduled(8))
    text = config.to_yaml()
    assert "  schedule: [0, 1, 2, 4, 7]  # steps with real cloud calls, in place of p and k\n" in text
    assert yaml.safe_load(text)["params"] == {"alpha": 0.5, "s": 8, "schedule": [0, 1, 2, 4, 7]}
    assert TunedConfig.from_yaml(text) == config
    assert yaml.safe_load(text)["format_version"] == 1
    assert "schedule" not in tiny_config.to_yaml().partition("scheduler")[0]


@pytest.mark.parametrize(
    ("params", "about"),
    [
        (
            {"alpha": 0.5, "s": 8, "schedule": "0 1"},
            {"key": "params.schedule", "got": "0 1", "expected": "to be a list or null"},
        ),
        (
            {"alpha": 0.5, "s": 8, "schedule": [0, "1"]},
            {"key": "params.schedule[1]", "got": "1", "expected": "to be a whole number"},
        ),
        (
            {"alpha": 0.5, "s": 8, "schedule": [0, 1, 12]},
            {"key": "schedule", "got": 12, "expected": "within 0 … 11"},
        ),
        (
            {"alpha": 0.5, "s": 8, "schedule": [0, 2]},
            {"key": "steps", "got": "1C1A1C5A4E", "expected": "real at [0, 1]"},
        ),
        (
            {"p": 3, "alpha": 0.5, "s": 8, "schedule": [0, 1]},
            {"key": "p and k", "got": {"p": 3, "k": None, "schedule": [0, 1]}},
        ),
        ({"alpha": 0.5, "s": 8}, {"key": "p", "got": None}),
        ({"s": 8, "schedule": [0, 1]}, {"key": "params.alpha"}),
    ],
)
def test_wrong_yaml(tiny_config: TunedConfig, params: dict[str, object], about: dict[str, Any]) -> None:
    tree = yaml.safe_load(tiny_config.to_yaml())
    with refused((ConfigError, ParamsError), **about):
        TunedConfig.from_yaml(yaml.safe_dump({**tree, "params": params}))


# Generating.


INTERLEAVED = ECDiffParams.interleaved([0, 1, 6], [2, 3, 5, 7, 11], 0.5, 0.7)
THINNED = replace(scheduled(8), s=3, edge_k=2, residual=1.0)


@pytest.mark.parametrize(
    ("estimator", "params", "schedule"),
    [
        ("gradient", scheduled(8), "3C1A1C2A1C4E"),
        ("newton2", scheduled(8), "3C1A1C2A1C4E"),
        ("edge", scheduled(8), "2C1B1M1B2M1C4E"),
        ("gradient", INTERLEAVED, "1C1B2M1A1M1B1M3A1M"),
        ("secant", THINNED, "2C1B2M2A1M2A2M"),
    ],
)
def test_pipeline_and_hook_agree(
    tiny_config: TunedConfig,
    tiny_pair: Path,
    tmp_path: Path,
    estimator: str,
    params: ECDiffParams,
    schedule: str,
) -> None:
    config = with_sampling(replace(tiny_config, params=params), estimator=estimator)
    config.save(tmp_path / "ecdiff.yaml")
    expected = ECDiffPipeline.from_config(tmp_path / "ecdiff.yaml", device="cpu")(PROMPT, generator=seeded())
    assert expected.plan.schedule == schedule
    pipe, edge = load(tiny_pair / "cloud"), load(tiny_pair / "edge")
    apply_ecdiff(pipe, tmp_path / "ecdiff.yaml", edge=edge)
    assert_close(run(pipe), expected.latents)
    assert pipe.ecdiff.calls == {"cloud": expected.plan.cloud_calls, "edge": expected.plan.edge_calls}


@given(num_steps=st.integers(1, 60), s=st.integers(0, 12))
def test_the_list_for_another_number_of_steps_can_be_used(num_steps: int, s: int) -> None:
    config = TunedConfig.from_yaml(
        "{format_version: 1, pair: {name: a, cloud: {id: b}, edge: {id: c}}, "
        f"params: {{alpha: 0.5, s: {s}, schedule: [0, 1, 2, 4, 7]}}, sampling: {{num_inference_steps: 12}}}}"
    )
    if num_steps == 12:
        return
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(num_steps)
    tracker = StepTracker(SimpleNamespace(scheduler=scheduler), config)
    with refused(ParamsError, key="num_inference_steps", got=num_steps, line=r"config\.scaled\(") as raised:
        tracker.enter(scheduler.timesteps[0])
    told = re.search(r"schedule=\[([\d, ]+)\], s=(\d+)", raised.value.advice)
    assert told is not None
    listed = tuple(int(step) for step in told[1].split(", "))
    plan(ECDiffParams.scheduled(listed, 0.5, int(told[2])), num_steps)
