"""``tune method=…`` on very small pairs, from its first line to the YAML that generate loads."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from ecdiff_core import MethodChoice, TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline as Pipeline
from ecdiff_tune.forecast import reference_placement
from ecdiff_tune.study import references

from ..page_reader import Page
from ..studies import Command, Study, refuses

TABLE = "methods/methods.csv"


@pytest.fixture
def made(study: Study, unshown: None) -> Study:
    return study


def table(study: Study) -> pd.DataFrame:
    return pd.read_csv(study.folder / TABLE)


def of_no_clock(findings: str) -> list[str]:
    """The sentences that follow from no seconds."""
    timed = (" s an image", "is faster than off")
    return [line for line in findings.splitlines() if not any(words in line for words in timed)]


def test_an_undisturbed_study_and_one_that_was_killed(
    made: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = "acceleration.values={cache_interval: 2, max_order: 1}"
    ask = ["method=taylorseer", "acceleration.timed_prompts=1", values, "sampling.num_inference_steps=8"]
    ask += ["heldout.num_prompts=1"]
    outcome = made("tune", *ask)
    assert outcome.status == 0, outcome
    first, answer = [one for one in outcome.out.splitlines() if "your present setting: " in one]
    assert "TaylorSeer cache_interval=2: mean SSIM" in first
    assert first in answer
    findings = (made.folder / "methods/findings.txt").read_text()
    said = {line.strip() for line in outcome.out.splitlines()}
    assert set(findings.splitlines()) <= said
    assert {first, answer} <= set(findings.splitlines())
    assert "s without it" in answer
    whole = table(made)
    present, kept = whole.iloc[0], whole[whole["kept"]]
    assert (present["cache_interval"], present["prompts"]) == (2, 3)
    assert (kept["quality"] >= present["quality"] - 1e-5).all()  # as good as it is now
    assert (kept["worst"] >= present["worst"] - 1e-5).all()
    config = TunedConfig.load(made.folder / "methods/taylorseer.yaml")
    assert config.method is not None
    assert config.method.values["max_order"] == 1
    assert config.score is not None
    assert config.score["work"] == pytest.approx(kept["work"].min(), abs=1e-4)
    assert config.score["heldout"]["num_prompts"] == 1
    assert config.plan().schedule == "8C"
    assert "reference: 24 cloud and 0 edge calls" in outcome.out  # the cloud alone is accelerated
    named = ["pair=custom", "pair.name=tiny", f"output_dir={made.outputs}"]
    config.save(made.folder / "accelerated.yaml")  # whichever was faster
    page = made.run("report", *named, *ask)  # tune's settings, none of which measurements depend on
    assert page.status == 0, page
    shown = Page.read(made.folder / "report/index.html")
    assert config.method.text in shown.text
    assert answer.strip() in shown.text
    again = made("tune", *ask)  # all is known: no call of the cloud
    assert again.status == 0, again
    assert "this run: 0 cloud calls" in again.out
    assert table(made).equals(whole)

    killed = made.copy(tmp_path / "killed", "latency.json")
    calls, real = [0], Pipeline.__call__

    def interrupt(self: Pipeline, *args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "__call__", interrupt)
        assert killed("tune", *ask).status != 0
    runs = killed.folder / "methods/runs.jsonl"
    complete = (made.folder / "methods/runs.jsonl").read_text()
    assert 0 < len(runs.read_text()) < len(complete)
    with runs.open("a") as file:
        file.write('{"frame": "cut o')
    assert killed("tune", *ask).status == 0
    assert table(killed).equals(whole)
    assert of_no_clock((killed.folder / "methods/findings.txt").read_text()) == of_no_clock(findings)
    assert len(runs.read_text().splitlines()) == len(complete.splitlines()) + 1
    other = made("tune", *ask, "acceleration.values={cache_interval: 3, max_order: 1}")
    assert other.status == 0, other  # another present setting in the same study
    assert "your present setting: TaylorSeer cache_interval=3: " in other.out

    config.save(made.folder / "accelerated.yaml")  # as where a floor was lower
    floors = ("acceleration.values=null", "acceleration.min_quality=1", "acceleration.min_worst=1")
    nothing = made("tune", *ask, *floors)
    assert "TaylorSeer: no setting that does something keeps mean SSIM 1 and worst 1" in nothing.out
    assert f"removed {made.folder / 'accelerated.yaml'} of an earlier command" in nothing.out
    assert not [*made.folder.rglob("taylorseer.yaml"), *made.folder.rglob("accelerated.yaml")]


def test_what_is_compared_with_is_the_models_own_image(made: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "FULL_RUNS", 1)  # EC-Diff would place calls for the others
    monkeypatch.setattr(reference_placement, "BOUND", 1.0)
    ask = ["method=deepcache", "acceleration.min_quality=0.5", "sampling.num_inference_steps=4"]
    outcome = made("tune", *ask, "heldout.num_prompts=0", "acceleration.timed_prompts=1")
    assert outcome.status == 0, outcome
    assert "reference: 12 cloud and 0 edge calls" in outcome.out
    assert table(made)["prompts"].max() == 3


def test_mag_cache_is_measured_on_the_model(tiny_videos: Path, tmp_path: Path, command: Command) -> None:
    ask = [
        "pair.name=videos",
        f"pair.cloud={tiny_videos / 'cloud'}",
        f"pair.edge={tiny_videos / 'edge'}",
        f"output_dir={tmp_path}",
        "sampling.num_inference_steps=8",
        "sampling.scheduler=CogVideoXDDIMScheduler",
        "sampling.guidance_scale=3.0",
        "calibration.num_prompts=2",
        "heldout.num_prompts=0",
        "acceleration.min_quality=0.5",
        "acceleration.min_worst=0.5",
        "acceleration.timed_prompts=1",
        "device=cpu",
    ]
    if find_spec("cache_dit") is not None:  # the model and T refuse it, before anything is generated
        outcome = command("tune", "method=step_mask", "acceleration.values={mask: [1, 0]}", *ask)
        refuses(outcome, key="acceleration.values.mask", got=[1, 0])
        assert not (tmp_path / "videos/reference").exists()
    outcome = command("tune", "method=[mag_cache,deepcache]", *ask)
    assert outcome.status == 0, outcome
    assert "left out: deepcache (it is for U-Nets, not for CogVideoXTransformer3DModel)" in outcome.out
    assert "[MagCache] Calibration Complete" not in outcome.out
    folder = tmp_path / "videos/default/methods"
    ratios = json.loads((folder / "mag_cache.json").read_text())
    assert len(ratios) == 8
    assert ratios[0] == 1.0
    assert all(0.1 < one < 10 for one in ratios)
    config = TunedConfig.load(folder / "mag_cache.yaml")
    assert config.method == MethodChoice("mag_cache", {**config.method.values, "mag_ratios": ratios})  # type: ignore[union-attr]


def test_refusals(study: Study) -> None:
    key = "acceleration.values.cache_interval"
    for overrides, about in (
        (["method=taylorser"], {"got": "taylorser", "nearest": "taylorseer"}),
        (["method=[ecdiff,pab]"], {"key": "method", "expected": "alone"}),
        (["method=[pab,tome]", "acceleration.values={ratio: 0.1}"], {"key": "acceleration.values"}),
        (["method=taylorseer", "acceleration.values={cache_interval: 0}"], {"key": key, "got": 0}),
        (
            ["method=taylorseer", "acceleration.values={cache_intervall: 2}"],
            {"key": "acceleration.values", "got": "cache_intervall", "nearest": "cache_interval"},
        ),
        (["method=taylorseer", "acceleration.values=3"], {"key": "acceleration.values", "got": 3}),
        (["method=taylorseer", "acceleration.values={1: 3}"], {"key": "acceleration.values", "got": {1: 3}}),
        (
            ["method=[mag_cache,sea_cache]"],
            {"key": "method", "line": r"mag_cache \(it has no list of transformer blocks\); sea_cache \("},
        ),
    ):
        refuses(study("tune", *overrides), **about)
