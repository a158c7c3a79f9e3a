"""noise, errors and table5 on a study of the tiny pair: what they write, say and refuse."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ecdiff_core.config import PairSpec, Sampling, TunedConfig
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.data.conf_folder import config_folder

from ..studies import STEPS, Command, Study, one_line, refuses

FIGURE = ("png", "svg")
TABLE = ("csv", "md", "tex")


def named(study: Study, *more: str) -> list[str]:
    """No more than a user gives of a study that is there."""
    return ["pair=custom", "pair.name=tiny", f"output_dir={study.outputs}", *more]


def check_written(folder: Path, out: str, names: dict[str, tuple[str, ...]]) -> None:
    """All files are there, are named on the last line, and nothing else is there."""
    expected = {f"{name}.{kind}" for name, kinds in names.items() for kind in kinds}
    assert {path.name for path in folder.iterdir()} == expected
    last = out.splitlines()[-1]
    assert last.startswith(f"wrote {folder}/: ")
    assert set(last.removeprefix(f"wrote {folder}/: ").split(", ")) == expected
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    for path in folder.glob("*.svg"):
        assert "<svg" in path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def own(tuned: tuple[Study, object], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the undisturbed study that these tests may write to."""
    return tuned[0].copy(tmp_path_factory.mktemp("evidence") / "outputs")


def test_noise(own: Study, command: Command) -> None:
    before = own.bytes()
    outcome = command("noise", *named(own))
    assert outcome.status == 0, outcome
    folder = own.folder / "noise"
    check_written(folder, outcome.out, {"figure3a": (*TABLE, *FIGURE)})
    table = pd.read_csv(folder / "figure3a.csv")
    profile = pd.read_csv(own.folder / "noise_profile.csv")
    assert table["step"].tolist() == list(range(1, STEPS))
    np.testing.assert_allclose(table[["mean", "variance"]], profile[["mean", "variance"]])
    assert (table["timestep"].diff().dropna() < 0).all()
    assert ((table["relative"] > 0) & (table["relative"] < 2)).all()
    told = re.search(r"noise change (\S+) at step 1, least (\S+) at step (\d+)", outcome.out)
    assert told
    assert float(told[2]) == pytest.approx(table["mean"].min(), abs=5e-6)
    assert int(told[3]) == table.loc[table["mean"].idxmin(), "step"]
    assert own.bytes() == before


def test_noise_makes_the_reference_where_it_is_missing(own: Study, tmp_path: Path) -> None:
    study = own.copy(tmp_path / "outputs")
    shutil.rmtree(study.outputs / "tiny" / "reference")
    outcome = study("noise")
    assert outcome.status == 0, outcome
    assert "runs without guidance" not in outcome.out
    assert "reference: 36 cloud and 36 edge calls" in outcome.out
    assert len(pd.read_csv(study.folder / "noise" / "figure3a.csv")) == STEPS - 1


def test_errors(own: Study, command: Command) -> None:
    before, rows = own.bytes(), own.rows()
    outcome = command("errors", *named(own, "errors.noise=[0.0001,0.2]"))
    assert outcome.status == 0, outcome
    folder = own.folder / "errors"
    names = {"figure1": (*TABLE, *FIGURE), "figure5": ("csv", *FIGURE), "corrections": TABLE, "bounds": TABLE}
    check_written(folder, outcome.out, names)
    assert "2 held-out prompts" in outcome.out
    disturbed = pd.read_csv(folder / "figure1.csv")
    assert disturbed["noise_percent"].tolist() == [0.01, 20]
    assert disturbed["ssim"][0] > 0.999 > disturbed["ssim"][1]
    curves = pd.read_csv(folder / "figure5.csv")
    assert set(curves["method"]) == {"EC-Diff", "HybridSD, 2 edge steps", "HybridSD, 6 edge steps"}
    steps = own.config().plan()
    ours = curves.query("method == 'EC-Diff' and prompt == 0")
    assert "".join(ours["action"].dropna()) == "".join(action.value for action in steps.steps)
    bounds = pd.read_csv(folder / "bounds.csv")
    for theorem in set(bounds["theorem"]):
        count = (bounds["theorem"] == theorem).sum()
        held = bounds.query(f"theorem == {theorem}")["held_as_printed"].sum()
        assert re.search(
            rf"Theorem {theorem}: as printed it held in (all )?{held}\b.*{count} cases", outcome.out
        )
    assert own.bytes() == before
    assert own.rows() == rows


def test_errors_of_another_config(own: Study, command: Command, tmp_path: Path) -> None:
    config = own.config()
    other = TunedConfig(config.pair, ECDiffParams(3, 3, 0.5, 11), config.sampling)
    other.save(tmp_path / "other.yaml")
    given = ("errors.num_prompts=1", "errors.noise=[0.1]", f"errors.config={tmp_path / 'other.yaml'}")
    outcome = command("errors", *named(own, *given))
    assert outcome.status == 0, outcome
    assert f"errors of {other.plan()}, 1 held-out prompt:" in outcome.out


def test_errors_without_a_config(own: Study, tmp_path: Path) -> None:
    study = own.copy(tmp_path / "outputs")
    (study.folder / "ecdiff.yaml").unlink()
    shutil.rmtree(study.folder / "errors", ignore_errors=True)  # what another test wrote
    refuses(study("errors"), key="errors.config", got=str(study.folder / "ecdiff.yaml"))
    assert not (study.folder / "errors").exists()


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.of_study])
def test_commands_that_begin_no_study(own: Study, command: Command, name: str) -> None:
    pair = own.folder.parent
    assert one_line(command(name, *named(own), "study=defualt")) == (
        f"error: No study in {pair / 'defualt'}: choose from default (did you mean default?)."
    )
    elsewhere = ("pair.name=other", f"output_dir={own.outputs}")
    refuses(command(name, *elsewhere), key="study", got="default", line="tiny/default")
    assert {path.name for path in pair.iterdir()} == {"default", "reference"}
    assert not (own.outputs / "other").exists()


def test_errors_of_a_config_that_does_not_fit(own: Study, command: Command, tmp_path: Path) -> None:
    config = own.config()
    path = tmp_path / "other.yaml"
    TunedConfig(config.pair, config.params, Sampling(num_inference_steps=20)).save(path)
    outcome = command("errors", *named(own, f"errors.config={path}"))
    refuses(outcome, key="errors.config", got=(20, "DDIMScheduler"), source=str(path))
    refuses(command("errors", *named(own, "errors.config=nowhere.yaml")), key="nowhere.yaml")


@pytest.mark.parametrize("name", ["noise", "errors"])
def test_settings_that_are_not_the_studys(own: Study, command: Command, name: str) -> None:
    outcome = command(name, *named(own, "seed=7", "sampling.guidance_scale=5"))
    refuses(outcome, key="settings", got=["sampling.guidance_scale 3.0 -> 5.0", "seed 0 -> 7"])


def test_a_device_by_another_name_is_the_studys(own: Study, command: Command) -> None:
    outcome = command("report", *named(own, "device=auto"))  # the study knows what auto took
    assert outcome.status == 0, outcome


SPEC = PairSpec("mine", ModelRef("a"), ModelRef("b"))


def save(outputs: Path, study: str, params: ECDiffParams, **score: object) -> Path:
    path = outputs / "mine" / study / "ecdiff.yaml"
    TunedConfig(SPEC, params, Sampling(), score or None).save(path)
    return path


def test_table5(command: Command, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    save(outputs, "b", ECDiffParams(7, 2, 0.3, 34), quality=0.9, objective=0.8, heldout={"quality": 0.7})
    save(outputs, "a", ECDiffParams.scheduled([0, 1, 4, 9], 0.5, 20))
    broken = save(outputs, "c", ECDiffParams(7, 2, 0.3, 34))
    broken.write_text(broken.read_text().replace("alpha: 0.3", "alpha: 3"))
    words = save(outputs, "d", ECDiffParams(7, 2, 0.3, 34), quality="high")

    outcome = command("table5", f"output_dir={outputs}")
    assert outcome.status == 0, outcome
    assert outcome.err == ""
    left_out = [line for line in outcome.out.splitlines() if line.startswith("note: left out: ")]
    assert [str(path) in line for path, line in zip((broken, words), left_out, strict=True)] == [True, True]
    assert "alpha=3" in left_out[0]

    table = pd.read_csv(outputs / "table5.csv")
    # Not conf/tuned/shapes.yaml, which lies beside them and is this project's own.
    papers = ["cogvideox_5b_2b", "sd14_bksdm_small", "sd14_bksdm_tiny", "sdxl_ssd1b", "sdxl_vega"]
    assert table.query("study == 'paper'")["pair"].tolist() == papers
    mine = table.query("pair == 'mine'").set_index("study")
    assert mine.index.tolist() == ["a", "b"]
    assert mine.loc["b", ["p", "k", "alpha", "s"]].tolist() == [7, 2, 0.3, 34]
    assert mine.loc["b", ["cloud_calls", "approximated", "edge_calls"]].tolist() == [16, 18, 16]
    assert mine.loc["b", ["quality", "objective", "heldout_quality"]].tolist() == [0.9, 0.8, 0.7]
    assert mine.loc["a", ["p", "k", "quality"]].isna().all()
    assert "real steps of mine, a: 0, 1, 4, 9" in outcome.out
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("| b | 50 | mine |")]
    assert row == "| b | 50 | mine | 7 | 2 | 0.3 | 34 | 16 | 18 | 16 | 0.9000 | – | – | 0.8000 | gradient |"
    assert row in (outputs / "table5.md").read_text()
    assert r"b & 50 & mine & 7 & 2 & 0.3 & 34" in (outputs / "table5.tex").read_text()


PROFILE = {
    "cloud_call_seconds": 0.0277,
    "edge_call_seconds": 0.0098,
    "encode_seconds": 0.001,
    "decode_seconds": 0.002,
    "transfer_seconds": 0.1,
}
WEIGHTS = {"w1": 0.3, "w2": 0.3, "w3": 0.4, "earliest_s": 30}


def test_table5_says_what_was_scored_by_different_profiles(command: Command, tmp_path: Path) -> None:
    busy = {**PROFILE, "cloud_call_seconds": 0.064}
    for study, latency, objective in (
        ("a", PROFILE, WEIGHTS),
        ("b", busy, WEIGHTS),
        ("c", PROFILE, {**WEIGHTS, "w3": 0.0}),
        ("d", None, None),
        ("e", PROFILE, {**WEIGHTS, "burden": "cloud_calls"}),
    ):
        path = tmp_path / "mine" / study / "ecdiff.yaml"
        told = {"latency": latency, "objective": objective}
        TunedConfig(SPEC, ECDiffParams(7, 2, 0.3, 34), Sampling(), {"quality": 0.9}, told).save(path)
    outcome = command("table5", f"output_dir={tmp_path}")
    assert outcome.status == 0, outcome
    notes = [line for line in outcome.out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: mine was scored by 2 latency profiles (a, c, e: cloud call 27.7 ms, edge call 9.8 ms; b: "
        "cloud call 64.0 ms, edge call 9.8 ms): efficiency, objective and seconds do not compare between "
        "them. "
        "rerank.latency=FILE scores a study by another's.",
        "note: mine was scored by 3 objectives (a, b: w1=0.3 w2=0.3 w3=0.4 s'=30; c: w1=0.3 w2=0.3 w3=0 "
        "s'=30; e: w1=0.3 w2=0.3 w3=0.4 s'=30 burden=cloud_calls), which do not compare. rerank scores a "
        "study by another one.",
    ]
    seconds = pd.read_csv(tmp_path / "table5.csv").query("pair == 'mine'")["cloud_call_seconds"]
    assert seconds.tolist()[:3] == [0.0277, 0.064, 0.0277]
    (tmp_path / "mine" / "b" / "ecdiff.yaml").unlink()
    (tmp_path / "mine" / "c" / "ecdiff.yaml").unlink()
    (tmp_path / "mine" / "e" / "ecdiff.yaml").unlink()
    assert "note: " not in command("table5", f"output_dir={tmp_path}").out


def test_a_tuned_row_stands_below_the_papers(command: Command, tmp_path: Path) -> None:
    papers = TunedConfig.load(config_folder() / "tuned" / "sdxl_vega.yaml")
    papers.save(tmp_path / "sdxl_vega" / "default" / "ecdiff.yaml")
    assert command("table5", f"output_dir={tmp_path}").status == 0
    studies = pd.read_csv(tmp_path / "table5.csv").query("pair == 'sdxl_vega'")["study"]
    assert studies.tolist() == ["paper", "default"]


def test_table5_of_nothing(command: Command, tmp_path: Path) -> None:
    outcome = command("table5", f"output_dir={tmp_path / 'new'}")
    assert outcome.status == 0, outcome
    assert "note: no " in outcome.out
    assert "run tune first" in outcome.out
    assert set(pd.read_csv(tmp_path / "new" / "table5.csv")["study"]) == {"paper"}
