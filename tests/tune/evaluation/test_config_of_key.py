"""Which config a ledger's key stands for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core.config import Sampling
from ecdiff_core.sampling.estimators import ESTIMATORS
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.config_of_key import config_of_key

STEPS = 12
ALPHAS = st.sampled_from([0.1, 0.3, 0.55, 1.0])


@st.composite
def configs(draw: st.DrawFn) -> tuple[ECDiffParams, Handoff]:
    s = draw(st.integers(0, STEPS))
    p = draw(st.integers(0, s))
    k = draw(st.integers(0, 8)) if p >= 2 else 0
    return ECDiffParams(p, k, draw(ALPHAS), s), draw(st.sampled_from(["aligned", "exact"]))


@given(config=configs(), estimator=st.sampled_from(sorted(ESTIMATORS)))
def test_a_key_gives_back_a_config_with_the_same_images(
    config: tuple[ECDiffParams, Handoff], estimator: str
) -> None:
    params, handoff = config
    sampling = Sampling(num_inference_steps=STEPS, handoff=handoff)
    candidate = Candidate(params, estimator, "matched")
    key = candidate.resolve(STEPS, handoff).key
    found = config_of_key(key, sampling)
    assert found is not None
    assert found == found.candidate.resolve(STEPS, handoff)
    assert found.key == key
    same = found.candidate.params
    filled = found.candidate.estimator == "edge"  # s may follow edge steps then
    assert same.s == found.plan.handoff_step or filled
    if key.alpha:
        assert (same.p, same.alpha) == (params.p, params.alpha)
    if found.plan.schedule.count("A") > 1:  # a single one may be cut short by s
        assert same.k == params.k


@pytest.mark.parametrize(("own", "other"), [("aligned", "exact"), ("exact", "aligned")])
def test_a_handoff_that_is_not_the_studys(own: Handoff, other: Handoff) -> None:
    params = ECDiffParams(3, 2, 0.3, 7, residual=1.0)
    config = Candidate(params, handoff=other).resolve(STEPS, own)
    assert config.plan == plan(params, STEPS, other)
    found = config_of_key(config.key, Sampling(num_inference_steps=STEPS, handoff=own))
    assert found is not None
    assert found.key == config.key
    # An aligned handoff is one at its own s too.
    wanted = params if other == "exact" else replace(params, s=9)
    assert (found.candidate.params, found.candidate.handoff) == (
        wanted,
        "exact" if own == "aligned" else None,
    )


@pytest.mark.parametrize("steps", ["3C1A1C2A1C4E", "2C5A5E", "2C1A3C2A1C1A2E"])
@pytest.mark.parametrize("handoff", ["aligned", "exact"])
@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_real_steps_one_by_one(steps: str, handoff: Handoff, estimator: str) -> None:
    sampling = Sampling(num_inference_steps=STEPS, handoff=handoff)
    letters = "".join(letter * int(count) for count, letter in re.findall(r"(\d+)(\w)", steps))
    cloud_side = letters.rstrip("E")
    real = [i for i, letter in enumerate(cloud_side) if letter == "C"]
    candidate = Candidate(ECDiffParams.scheduled(real, 0.3, len(cloud_side)), estimator)
    key = candidate.resolve(STEPS, handoff).key
    found = config_of_key(key, sampling)
    assert found is not None
    assert found == found.candidate.resolve(STEPS, handoff)
    assert found.key == key


@pytest.mark.parametrize("schedule", ["1C1A1C9E", "12C1E", "4C", "3C2A1C2E1C3E", "12A", ""])
def test_what_no_config_makes(schedule: str) -> None:
    sampling = Sampling(num_inference_steps=STEPS)
    assert config_of_key(ConfigKey(schedule, 0.3, "gradient", "identity"), sampling) is None


def test_what_a_key_leaves_out_is_the_studys() -> None:
    sampling = Sampling(num_inference_steps=STEPS, estimator="reuse", handoff_adapter="matched")
    found = config_of_key(ConfigKey("12C", 0.0, "", ""), sampling)
    assert found is not None
    assert found.candidate == Candidate(ECDiffParams(0, 0, 1.0, 12), "reuse", "matched")
