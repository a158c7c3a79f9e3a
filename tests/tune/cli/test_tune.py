"""The commands with other settings than the plain ones."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.models.pair import Pair
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import Alpha, NoiseState
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation import reference_runs
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing
from ecdiff_tune.evaluation.machine_conditions import Conditions
from ecdiff_tune.report import image_grid
from ecdiff_tune.study import open_study
from ecdiff_tune.study.spec import StudySpec

from ..studies import ROUNDED, STEPS, Study, best_row, refuses


@pytest.mark.usefixtures("unshown")
def test_stage2_with_parameters_by_hand(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    outcome = again("stage2", "params.k=3", "params.alpha=0.4")
    assert outcome.status == 0, outcome
    params = again.config().params
    assert (params.k, params.alpha) == (3, 0.4)
    assert params.p == done.config().params.p
    before, after = done.trials(), again.trials()
    pd.testing.assert_frame_equal(after[after["stage"] == 1], before[before["stage"] == 1])
    assert set(after.loc[after["stage"] == 2, "k"]) == {3}
    assert again.bytes("stage1.yaml") == done.bytes("stage1.yaml")


@pytest.mark.usefixtures("unshown")
def test_stage2_alone_cuts_at_s(study: Study) -> None:
    by_hand = ("params.p=3", "params.k=2", "params.alpha=0.3", "heldout.num_prompts=0")
    outcome = study("stage2", *by_hand, "sampling.handoff=exact", "search.name=exhaustive")
    assert outcome.status == 0, outcome
    assert study.trials()["s"].tolist() == [7, 8, 9, 10]
    config = study.config()
    assert config.sampling.handoff == "exact"
    assert config.plan().handoff_step == config.params.s == best_row(study.trials(), 2)["s"]
    assert config.score is not None
    assert "heldout" not in config.score
    assert "held-out" not in outcome.out


@pytest.mark.usefixtures("unshown")
def test_searches_in_one_go(study: Study, latency: LatencyProfile) -> None:
    for name in ("greedy", "exhaustive"):
        study.with_latency(latency, name)
    small = ("search.k=[1,2,3]", "calibration.num_prompts=2", "study=${search.name}")
    outcome = study("stage1", "-m", "search=greedy,exhaustive", *small, "search.alpha=[0.3,0.5,0.7,0.9]")
    assert outcome.status == 0, outcome
    trials, best = {}, {}
    for name in ("greedy", "exhaustive"):
        folder = study.outputs / "tiny" / name
        trials[name] = pd.read_csv(folder / "trials.csv").drop(columns="trial").set_index(["k", "alpha"])
        score = TunedConfig.load(folder / "stage1.yaml").score
        assert score is not None
        best[name] = score["objective"]
    assert len(trials["exhaustive"]) == 12
    assert len(trials["greedy"]) < 12
    assert best["exhaustive"] >= best["greedy"]
    assert best["exhaustive"] == pytest.approx(trials["exhaustive"]["objective"].max(), abs=ROUNDED)
    # The same configs have the same scores, and the second study found the references of the first.
    shared = trials["exhaustive"].loc[trials["greedy"].index]
    pd.testing.assert_frame_equal(shared, trials["greedy"])
    assert outcome.out.count("reference: ") == 1


@pytest.mark.usefixtures("unshown")
def test_an_extended_search_ends_inside_its_grid(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    outcome = again("stage1", "search.extend=true")
    assert outcome.status == 0, outcome
    before, after = done.trials(), again.trials()
    first = before[before["stage"] == 1]
    pd.testing.assert_frame_equal(after.head(len(first)), first)
    assert set(after["k"]) > {1, 2}  # one of two k is an edge
    assert "the best so far lies on the boundary of the grid: it goes on with k=" in outcome.out
    assert "A wider grid may hold" not in outcome.out
    best = again.config("stage1.yaml").params
    assert min(after["k"]) < best.k < max(after["k"]) or best.k in (0, STEPS - 1)
    assert best_row(after, 1)["objective"] >= best_row(before, 1)["objective"]


@pytest.mark.usefixtures("unshown")
def test_by_the_clock(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    load = open_study.load_pipe

    def load_and_slow(spec: StudySpec, pair: Pair | None) -> ECDiffPipeline:
        """The small cloud is so fast that on a busy machine its edge may seem slower."""
        pipe = load(spec, pair)
        pipe.pair.cloud.register_forward_pre_hook(lambda *_: time.sleep(0.01))
        return pipe

    monkeypatch.setattr(open_study, "load_pipe", load_and_slow)
    small = ("params.p=3", "search.k=[2]", "search.alpha=[0.3]", "search.s=[9]", "heldout.num_prompts=1")
    outcome = study("tune", "search=greedy", "latency=wallclock", *small)
    assert outcome.status == 0, outcome
    with closing(sqlite3.connect(study.folder / "ledger.sqlite")) as database, database:
        measured = [seconds for (seconds,) in database.execute("SELECT seconds FROM measurements")]
    trials = study.trials()
    profile = LatencyProfile.load(study.folder / "latency.json")
    alone = np.array(measured) + profile.encode.median  # the median of an odd number is one of them
    assert min(np.abs(alone - trials["seconds"][0])) < 1e-9
    assert min(np.abs(alone + profile.transfer_seconds - trials["seconds"][1])) < 1e-9
    config = study.config()
    assert config.provenance is not None
    assert config.provenance["latency"]["source"] == "wallclock"


@pytest.fixture
def own_latency(study: Study) -> Study:
    """The study without the latency profile that it is given."""
    (study.folder / "latency.json").unlink()
    return study


@pytest.mark.usefixtures("unshown")
def test_the_latency_profile_of_another_machine(
    own_latency: Study, latency: LatencyProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> LatencyProfile:
        raise AssertionError("measured in place of read")

    monkeypatch.setattr(latency_module, "measure", measured)
    there = Conditions("tiny", "float16", "a large GPU", 8, "passive")
    file = tmp_path / "its latency.json"
    replace(latency, conditions=there, cloud_call=Timing(0.020, 0.010, 0.040)).save(file)
    arguments = ("reference", f"latency={file}", "link.mbps=1", "heldout.num_prompts=0")
    outcome = own_latency(*arguments)
    assert outcome.status == 0, outcome
    kept = LatencyProfile.load(own_latency.folder / "latency.json")
    assert (kept.cloud_call.median, kept.conditions) == (0.020, there)
    values = 4 * 8 * 8 + 2 * 32 * 32
    assert (kept.transfer_seconds, kept.payload_values) == (values * 16 / 1e6, values)
    assert f"latency of {file}: cloud call 20.0 ms, edge call 8.0 ms" in outcome.out
    assert (
        "note: the latency profile was measured with dtype float16 in place of float32, device a large"
        in (outcome.out)
    )
    assert "cloud call 10 … 40 ms between quartiles): the machine was busy" in outcome.out

    file.unlink()  # the study has kept it
    assert own_latency(*arguments).status == 0


@pytest.mark.parametrize(
    ("content", "about"),
    [(None, {"line": "No such file"}), ("{}", {"got": None}), (1, {"got": 1, "expected": re.compile("^2")})],
)
def test_a_latency_profile_that_cannot_be_used(
    own_latency: Study,
    latency: LatencyProfile,
    tmp_path: Path,
    content: str | int | None,
    about: dict[str, Any],
) -> None:
    file = tmp_path / "other.json"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        replace(latency, payload_values=content).save(file)
    refuses(own_latency("reference", f"latency={file}"), key=file, **about)


@pytest.mark.usefixtures("unshown")
def test_a_config_that_is_not_finite_loses(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = estimators.ESTIMATORS["gradient"]

    def estimate(state: NoiseState, alpha: Alpha) -> NoiseState:
        found = gradient.estimate(state, alpha)
        spoilt = alpha == 0.5 and state.scaled and found.eps is not None
        return replace(found, eps=found.eps * float("nan")) if spoilt else found

    monkeypatch.setitem(estimators.ESTIMATORS, "gradient", replace(gradient, estimate=estimate))
    outcome = study("stage1", "heldout.num_prompts=0")
    assert outcome.status == 0, outcome
    trials = study.trials()
    infeasible = trials[trials["alpha"] == 0.5]
    assert set(infeasible["state"]) == {"infeasible"}
    assert infeasible[["quality", "efficiency", "burden", "objective"]].isna().all(axis=None)
    assert set(trials.loc[trials["alpha"] != 0.5, "state"]) == {"complete"}
    assert study.config("stage1.yaml").params.alpha != 0.5
    assert "infeasible: latents not finite" in outcome.out


def test_a_prompt_without_an_image_is_left_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, seen = reference_runs._fault, itertools.count()

    def of_the_fourth_prompt(latents: Tensor, image: Tensor) -> int:
        """Each prompt has two images, the cloud's first; the held-out ones come last."""
        return 2 if next(seen) in (6, 20) else fault(latents, image)

    monkeypatch.setattr(reference_runs, "_fault", of_the_fourth_prompt)
    monkeypatch.setattr(image_grid, "samples", lambda *_: None)
    small = ("search.k=[1]", "search.alpha=[0.3]", "search.s=[2]", "params.p=2", "calibration.num_prompts=10")
    outcome = study("tune", "search=greedy", *small, "sampling.num_inference_steps=4")
    assert outcome.status == 0, outcome
    notes = [line for line in outcome.out.splitlines() if line.startswith("note: left out, ")]
    assert [line.rpartition(": ")[0] for line in notes] == [
        "note: left out, for the cloud model's own image is all black"
    ] * 2
    assert set(json.loads((study.folder / "left_out.json").read_text()).values()) == {"all black"}
    config = study.config()
    assert config.provenance is not None
    assert config.score is not None
    assert config.provenance["calibration"]["num_prompts"] == 9
    assert config.score["heldout"]["num_prompts"] == 1
    with closing(sqlite3.connect(study.folder / "ledger.sqlite")) as database, database:
        (rows,) = database.execute("SELECT COUNT(*) FROM measurements").fetchone()
    assert rows == 9 + 9 + 1
    assert (study.folder / "report" / "index.html").is_file()

    again = study.run("rerank", "pair=custom", "pair.name=tiny", f"output_dir={study.outputs}")
    assert again.status == 0, again
    assert "configs measured on all of 9 prompts: 2\n" in again.out


@pytest.mark.usefixtures("unshown")
def test_a_file_of_prompts(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text('id,words\n1,"a ring, red"\n2,a star\n3,a cross\n4,a square\n')
    outcome = study(
        "reference", f"calibration.file={file}", "calibration.column=words", "heldout.num_prompts=1"
    )
    assert outcome.status == 0, outcome
    assert len(list((study.outputs / "tiny" / "reference").rglob("*.safetensors"))) == 3
