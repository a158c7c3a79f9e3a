"""``ablate``: parts of the method taken out or exchanged, each against the right cloud images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ecdiff_core.config import TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.cli.ablate import ablations, correcting_twice
from ecdiff_tune.data import calibration
from ecdiff_tune.experiments.method_runs import obstacle
from ecdiff_tune.metrics.images import psnr, ssim

from ..recorded_study import RecordedStudy
from ..studies import Outcome, Study


@pytest.fixture(scope="module")
def ablated(tuned: tuple[Study, Outcome], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose winner has two windows, so that alpha acts, with its ablation; not to be written to."""
    study = tuned[0].copy(tmp_path_factory.mktemp("ablated") / "outputs")
    replace(study.config(), params=ECDiffParams(3, 2, 0.3, 9)).save(study.folder / "ecdiff.yaml")
    outcome = study("ablate", "ablate.num_prompts=null")
    assert outcome.status == 0, outcome
    return study


def table(study: Study) -> pd.DataFrame:
    return pd.read_csv(study.folder / "ablate" / "table2.csv", index_col="method")


def test_the_papers_rows(ablated: Study) -> None:
    found = table(ablated)
    assert list(found.index) == ["tuned", "twice", "without_alpha", "euler", "dpm"]
    assert (found["prompts"] == 2).all()
    assert found["cloud_calls"].tolist() == [5, 7, 5, 5, 5]
    assert found["edge_calls"].tolist() == [3, 1, 3, 3, 3]
    assert found["ssim"].nunique() == 5
    spent = pd.read_csv(ablated.folder / "calls.csv").set_index("part").loc["ablate"]
    assert spent["decode"] == 2 * 5 + 2 * 2  # the clouds of the other schedulers too
    for kind in ("md", "tex"):
        assert "correct errors twice" in (ablated.folder / "ablate" / f"table2.{kind}").read_text()


@pytest.mark.parametrize(
    ("name", "scheduler"), [("euler", "EulerDiscreteScheduler"), ("dpm", "DPMSolverMultistepScheduler")]
)
def test_another_scheduler_is_held_against_its_own_cloud_run(
    ablated: Study, tiny_config: TunedConfig, name: str, scheduler: str
) -> None:
    config = ablated.config()
    config = replace(config, sampling=replace(config.sampling, scheduler=scheduler))
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    source = RecordedStudy(Path(), None).spec.prompts  # type: ignore[arg-type]
    _, heldout = calibration.load(replace(source, count=3))
    images = {
        mode: torch.stack(
            [
                pipe.pair.family.decode(
                    pipe(prompt, generator=torch.Generator().manual_seed(seed), mode=mode).latents
                )[0]
                for prompt, seed in zip(heldout.prompts, heldout.seeds, strict=True)
            ]
        )
        for mode in ("cloud", "ecdiff")
    }
    found = table(ablated).loc[name]
    assert found["ssim"] == pytest.approx(ssim(images["ecdiff"], images["cloud"]).mean().item(), abs=1e-4)
    assert found["psnr"] == pytest.approx(psnr(images["ecdiff"], images["cloud"]).mean().item(), abs=0.05)


def test_a_second_time_nothing_is_generated(
    ablated: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ablated.copy(tmp_path / "outputs")
    calls: list[int] = []
    monkeypatch.setattr(ECDiffPipeline, "bind", lambda *_: calls.append(1))
    assert study("ablate").status == 0
    assert not calls
    assert table(study).equals(table(ablated))


@pytest.mark.parametrize(
    ("params", "schedule"),
    [
        (ECDiffParams(3, 2, 0.3, 9), "3C2A2C2A2C1E"),
        (ECDiffParams(3, 2, 0.3, 6), "3C2A2C5E"),  # a pair ends after step 6
        (ECDiffParams(2, 1, 0.3, 4), "2C1A2C7E"),
        (ECDiffParams(3, 4, 0.3, 12), "3C4A2C3A"),  # no second pair: the cloud's side goes on to T
        (ECDiffParams.scheduled([0, 1, 4, 7], 0.3, 8), "2C2A2C1A2C3E"),
        (ECDiffParams.hybrid(9), "9C3E"),
        (ECDiffParams.interleaved([0, 1, 4, 7, 11], [5, 10], 0.3, 1.0), "2C2A1B1M1A1C1B1A1M1C"),
    ],
)
def test_correcting_twice(params: ECDiffParams, schedule: str) -> None:
    handoff = plan(params, 12).handoff_step
    assert plan(correcting_twice(params, handoff, 12), 12).schedule == schedule


def test_on_the_first_prompts_alone(ablated: Study, tmp_path: Path) -> None:
    study = ablated.copy(tmp_path / "outputs")
    outcome = study("ablate", "ablate.num_prompts=1")
    assert outcome.status == 0, outcome
    found = table(study)
    assert (found["prompts"] == 1).all()
    assert "1 held-out prompts" in outcome.out
    assert not found["ssim"].equals(table(ablated)["ssim"])


def test_where_alpha_never_acts_its_row_is_left_out(tuned: tuple[Study, Outcome], tmp_path: Path) -> None:
    study = tuned[0].copy(tmp_path / "outputs")
    replace(study.config(), params=ECDiffParams(3, 2, 0.3, 6)).save(study.folder / "ecdiff.yaml")
    outcome = study("ablate")
    assert outcome.status == 0, outcome
    assert "left out: without_alpha (it makes the same images as tuned)" in outcome.out
    assert list(table(study).index) == ["tuned", "twice", "euler", "dpm"]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (ECDiffParams(3, 2, 0.3, 13), "num_inference_steps=12"),
        (ECDiffParams.scheduled([0, 1, 2, 5, 12], 0.3, 12), "with 12 steps"),
    ],
)
def test_steps_that_other_schedulers_do_not_make_are_left_out(
    tiny_config: TunedConfig, params: ECDiffParams, why: str
) -> None:
    sampling = replace(tiny_config.sampling, scheduler="PNDMScheduler")  # T = 13 for 12
    config = replace(tiny_config, params=params, sampling=sampling)
    pair = ECDiffPipeline.from_config(config, device="cpu").pair
    reasons = {one.name: obstacle(pair, one) for one in ablations(config)}
    assert (reasons["tuned"], reasons["twice"], reasons["without_alpha"]) == (None, None, None)
    for name in ("euler", "dpm"):
        assert why in (reasons[name] or "")


def test_with_the_studys_own_scheduler_it_is_the_tuned_config_once_more(tiny_config: TunedConfig) -> None:
    euler = replace(tiny_config, sampling=replace(tiny_config.sampling, scheduler="EulerDiscreteScheduler"))
    rows = {one.name: one.key(euler.sampling) for one in ablations(euler)}
    assert rows["euler"] == rows["tuned"]
    assert rows["dpm"].sampler == "DPMSolverMultistepScheduler 12, against its own cloud"
