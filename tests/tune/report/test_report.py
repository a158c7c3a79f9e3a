"""report: a page whose numbers are those of the ledger, and which needs nothing but itself."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import pareto_front
from ecdiff_tune.report import costs, quality_seconds, sensitivity, study_data
from ecdiff_tune.report.figure_files import inline
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study import files
from ecdiff_tune.study.recorded import load

from ..page_reader import Page
from ..recorded_study import GRID, SPREAD, STEPS, RecordedStudy, key_of, quality, with_payload
from ..studies import Command, Study, loaded_by, refuses

PAGE = "report/index.html"


@pytest.fixture
def recorded(tmp_path: Path, latency: LatencyProfile) -> RecordedStudy:
    return RecordedStudy(tmp_path, with_payload(latency)).write(heldout=[GRID[0]])


def written(study: RecordedStudy, command: Command, *more: str) -> Page:
    outcome = command("report", *study.arguments(*more))
    assert outcome.status == 0, outcome
    assert outcome.out.strip() == f"wrote {study.folder / PAGE}"
    return Page.read(study.folder / PAGE)


def read(study: RecordedStudy) -> StudyData:
    return study_data.of(load(study.spec))


# What tune leaves.


def test_the_page_needs_nothing_but_itself(done: Study) -> None:
    shown = Page.read(done.folder / PAGE)
    assert len(shown.ids) == len(set(shown.ids))
    assert len(shown.addresses) > 10
    assert all(one.startswith(("data:", "#")) for one in shown.addresses)
    inside = {one.removeprefix("#") for one in shown.addresses if one.startswith("#")}
    assert 0 < len(inside) == len(inside & set(shown.ids))
    text = (done.folder / PAGE).read_text(encoding="utf-8")
    assert "://" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_images_are_those_of_the_worst_prompts(done: Study) -> None:
    shown = Page.read(done.folder / PAGE)
    images = shown.images()
    prompts = 3  # fewer than the grid has room for
    assert len(images) == prompts * (4 + 3)  # and the difference of all but the cloud's own
    assert {one.size for one in images} == {(32, 32)}
    table = pd.read_csv(done.folder / "samples/samples.csv")
    tuned = table[table["method"] == "EC-Diff"]
    assert tuned["ssim"].is_monotonic_increasing
    assert list(dict.fromkeys(table["method"])) == ["cloud", "edge", "HybridSD", "EC-Diff"]
    with closing(sqlite3.connect(done.folder / "ledger.sqlite")) as database, database:
        schedule = tuned["schedule"].iloc[0]
        rows = database.execute("SELECT ssim FROM measurements WHERE schedule = ?", (schedule,)).fetchall()
    assert set(tuned["ssim"].round(9)) < {round(ssim, 9) for (ssim,) in rows}  # the rest: held-out prompts
    for name in table["file"]:
        assert (done.folder / "samples" / name).is_file()
    for prompt in tuned["prompt"]:
        assert prompt in shown.text


def test_its_numbers_are_those_of_the_ledger(done: Study) -> None:
    shown, config = Page.read(done.folder / PAGE), done.config()
    trials = done.trials()
    configs = shown.tables["configs"]
    assert len(configs) == len(trials[trials["state"] == "complete"])
    assert config.score is not None
    best = float(shown.column("configs", "quality")[0][1] or "nan")
    by_sql = _qualities(done.folder / "ledger.sqlite")
    found = sorted(float(key or "nan") for _, key in shown.column("configs", "quality"))
    assert found == pytest.approx(sorted(by_sql), abs=1e-12)
    assert best == pytest.approx(config.score["quality"], abs=5e-6)  # as many digits as the YAML has
    assert f"{config.score['quality']:.3f}" in shown.text
    assert f"{config.score['heldout']['objective']:.4f}" in shown.text
    assert shown.tables["heldout-table"][1][0][0] == "held out"
    assert len(shown.tables["prompts"]) == 3 + 2
    marks = {title for title in shown.titles if title.startswith("trial ")}
    assert len(marks) == len(trials)


def _qualities(ledger: Path) -> list[float]:
    """The mean SSIM of every config with all three calibration prompts; the two others are held out."""
    with closing(sqlite3.connect(ledger)) as database, database:
        rows = database.execute(
            "SELECT prompt, COUNT(*) FROM measurements GROUP BY prompt ORDER BY 2 DESC, 1"
        ).fetchall()
        tuned_on = [prompt for prompt, _ in rows[:3]]
        assert rows[2][1] > rows[3][1]
        query = (
            "SELECT AVG(ssim) FROM measurements WHERE prompt IN (?, ?, ?) "
            "GROUP BY schedule, alpha, estimator, handoff_adapter HAVING COUNT(*) = 3"
        )
        return [value for (value,) in database.execute(query, tuned_on)]


def test_report_writes_the_same_page_again(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    shutil.rmtree(again.folder / "report")
    outcome = again("report")
    assert outcome.status == 0, outcome
    text = (again.folder / PAGE).read_text(encoding="utf-8")
    assert text.replace(str(again.outputs), str(done.outputs)) == (done.folder / PAGE).read_text("utf-8")


def test_the_calls_that_the_search_made(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    for name in ("ledger.sqlite", files.CALLS):
        (again.folder / name).unlink()
    outcome = again("tune")
    assert outcome.status == 0, outcome
    made = pd.read_csv(again.folder / files.CALLS).set_index("part")
    stages = made.loc[["stage 1", "stage 2"], ["cloud", "edge", "decode"]].sum()
    assert stages["decode"] == 3 * len(again.trials())
    search, heldout, reference = _cells(again.folder / PAGE)
    assert search[3:5] == [f"{stages['cloud']:,}", f"{stages['edge']:,}"]
    whole = again.trials()[["cloud_calls", "edge_calls"]].sum() * 3
    assert search[5] == f"{whole.iloc[0]:,} + {whole.iloc[1]:,}"
    assert stages["cloud"] < whole.iloc[0]  # trials share their trajectories
    plan = again.config().plan()
    cloud, edge = 2 * plan.cloud_calls, 2 * plan.edge_calls
    assert heldout == ["held-out prompts", "1", "2", f"{cloud}", f"{edge}", f"{cloud} + {edge}", "0%"]
    assert reference == ["reference", "–", "0", "0", "0", "–", "–"]  # the first study has made it

    rows = pd.read_csv(again.folder / files.CALLS)
    rows[rows["part"] != "stage 2"].to_csv(again.folder / files.CALLS, index=False)
    assert again("report").status == 0
    search, heldout, _ = _cells(again.folder / PAGE)
    assert search[3:5] + search[6:] == ["–"] * 3
    assert heldout[3] == f"{cloud}"
    assert "it does not tell those of just these images" in Page.read(again.folder / PAGE).text


def test_the_calls_of_the_reference(done: Study) -> None:
    made = pd.read_csv(done.folder / files.CALLS).set_index("part")
    rows = made.loc[["reference", "held-out reference"], ["decode", "cloud", "edge"]].sum()
    *_, reference = _cells(done.folder / PAGE)
    assert reference == ["reference", "–", *(f"{one:,}" for one in rows), "–", "–"]
    assert "A dash for calls" not in Page.read(done.folder / PAGE).text


def _cells(path: Path) -> list[list[str]]:
    """What the search cost."""
    return [[text for text, _ in row] for row in Page.read(path).tables["table 1"]]


# A study without a model.


def test_what_is_not_there_is_told(recorded: RecordedStudy, command: Command) -> None:
    shown = written(recorded, command)
    for told in (
        "the search has not come to an end",
        "No images are kept",
        "There is no trials.csv",
        "There is no noise_profile.csv",
        "python -m ecdiff_tune compare pair=custom pair.name=tiny",
        "A dash for calls: this study has no calls.csv",
    ):
        assert told in shown.text
    assert shown.images() == []
    assert len(shown.tables["configs"]) == len(GRID)
    assert "configs were measured" not in shown.text  # what was said on the terminal alone


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
def test_sensitivity_to_a_weight(recorded: RecordedStudy, latency: LatencyProfile, name: str) -> None:
    record = read(recorded).record
    sweep = next(one for one in sensitivity.sweeps(record) if one.setting == f"objective.{name}")
    assert (sweep.low, sweep.own) == (0.0, {"w1": 0.3, "w2": 0.3, "w3": 0.4}[name])
    for segment in sweep.segments:
        for value in (segment.low, segment.high):
            expected = max(GRID, key=lambda one: _objective(one, latency, {name: value}))
            found = segment.best.candidate.params
            best = _objective(expected, latency, {name: value})
            assert _objective(found, latency, {name: value}) == pytest.approx(best, abs=1e-9)
    ends = [0.0, *(one.end for one in sweep.segments)]
    assert ends == sorted(ends)
    assert ends[-1] == sweep.high
    assert [one.low for one in sweep.segments] == ends[:-1]


def _objective(params: ECDiffParams, latency: LatencyProfile, changed: dict[str, float]) -> float:
    """Eq. 12, written out."""
    weights = {"w1": 0.3, "w2": 0.3, "w3": 0.4} | changed
    cloud, edge = latency.alone(STEPS)
    efficiency = (cloud - latency.seconds(plan(params, STEPS))) / (cloud - edge)
    burden = (STEPS - params.s) / (STEPS - 7)
    return weights["w1"] * quality(params) + weights["w2"] * efficiency + weights["w3"] * burden


def test_sensitivity_to_the_link(recorded: RecordedStudy, latency: LatencyProfile) -> None:
    data = read(recorded)
    found = {one.setting: one for one in sensitivity.sweeps(data.record)}
    sweep = found["link.mbps"]
    assert (sweep.own, sweep.low, sweep.high) == (18.88, 1.0, 1000.0)
    slow, fast = sweep.segments[0], sweep.segments[-1]
    sent = 11_800 * 16 / 1e6
    assert not slow.best.plan.hands_over
    assert slow.seconds[0] == pytest.approx(latency.seconds(slow.best.plan))
    assert fast.best.plan.hands_over
    by_hand = latency.seconds(fast.best.plan) - 0.010 + sent / 1000
    assert fast.seconds[1] == pytest.approx(by_hand)
    assert sweep.place(1.0) == 0
    assert sweep.place(1000.0) == pytest.approx(100)
    assert found["objective.earliest_s"].own == 7
    styles = sensitivity.styles(list(found.values()), data.winner.candidate)
    assert styles[data.winner.candidate] == "winner"
    assert {one.best.candidate for sweep in found.values() for one in sweep.segments} <= set(styles)


def test_a_link_whose_payload_is_not_known(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, with_payload(replace(latency, transfer_seconds=0.0), None))
    one = replace(study, link=replace(study.link, mbps=None)).write()
    assert [sweep.setting for sweep in sensitivity.sweeps(read(one).record)] == [
        "objective.w1",
        "objective.w2",
        "objective.w3",
        "objective.earliest_s",
    ]


def calls_table(study: RecordedStudy, *rows: tuple[str, int, int, int]) -> None:
    table = pd.DataFrame(rows, columns=["part", "cloud", "edge", "decode"]).assign(run="now", seconds=1.0)
    table.to_csv(study.folder / files.CALLS, index=False)


def test_calls_of_a_ledger(recorded: RecordedStudy) -> None:
    search, held, reference = costs.costs(read(recorded))
    plans = [plan(params, STEPS) for params in GRID]
    images = len(GRID) * len(SPREAD)
    assert (search.configs, search.images) == (len(GRID), images)
    assert search.whole == tuple(
        len(SPREAD) * sum(getattr(one, name) for one in plans) for name in ("cloud_calls", "edge_calls")
    )
    assert (held.configs, held.images) == (1, 2)
    assert [one.calls for one in (search, held, reference)] == [None] * 3

    calls_table(
        recorded,
        ("latency", 900, 900, 900),
        ("stage 1", 30, 0, 10),
        ("joint search", 20, 40, images - 10),
        ("held-out", 8, 6, 2),
        ("samples", 900, 900, 900),
        ("reference", 48, 96, 8),
        ("held-out reference", 24, 24, 4),
    )
    search, held, reference = costs.costs(read(recorded))
    assert (search.calls, held.calls, reference.calls) == ((50, 40), (8, 6), (72, 120))
    assert search.saved == pytest.approx(100 - 100 * 90 / sum(search.whole or ()))
    assert reference.images == 12


def test_calls_of_other_images_are_not_shown(tmp_path: Path, latency: LatencyProfile) -> None:
    """Held-out calls of the winner alone; a search that another run measured a part of."""
    study = RecordedStudy(tmp_path, with_payload(latency)).write(heldout=GRID[:3])
    images = len(GRID) * len(SPREAD)
    calls_table(study, ("stage 2", 50, 40, images - 1), ("held-out", 8, 6, 2), ("held-out", 7, 6, 2))
    search, held, _ = costs.costs(read(study))
    assert (search.calls, held.calls) == (None, None)
    assert (held.configs, held.images) == (1, 2)


def test_the_papers_row(recorded: RecordedStudy) -> None:
    data = read(recorded)
    assert data.paper is None
    measured = replace(data.config, params=GRID[1])
    shown = inline(quality_seconds.tradeoff(replace(data, paper=measured), ()))
    assert f"the paper&#x27;s row: p=3 k=1 alpha={GRID[1].alpha:g}" in shown
    other = replace(data.config, params=ECDiffParams(2, 3, 0.2, 10))
    svg = inline(quality_seconds.tradeoff(replace(data, paper=other), ()))
    assert "quality not measured here" in svg
    assert "the paper&#x27;s row: p=" not in svg


def test_seconds_of_a_video(recorded: RecordedStudy) -> None:
    data = read(recorded)
    assert quality_seconds.tradeoff(data, ()).axes[0].get_xlabel() == "seconds per image"
    config = replace(data.config, sampling=replace(data.config.sampling, num_frames=9))
    figure = quality_seconds.tradeoff(replace(data, config=config), ())
    assert figure.get_label() == "Quality against seconds per video"
    assert figure.axes[0].get_xlabel() == "seconds per video"


def test_the_front(recorded: RecordedStudy) -> None:
    trials = read(recorded).record.trials
    found = pareto_front(trials, ("quality", "seconds"))
    values = [(one.seconds, one.score.quality) for one in trials if one.score]
    expected = {
        (t, q) for t, q in values if not any(t2 <= t and q2 >= q and (t2, q2) != (t, q) for t2, q2 in values)
    }
    assert {(one.seconds, one.quality) for one in found} == expected
    assert 1 < len(found) < len(trials)
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)


def test_bars_add_up(recorded: RecordedStudy, latency: LatencyProfile) -> None:
    data = read(recorded)
    found = {one.name: one for one in costs.bars(data)}
    assert found["the winner"].total == pytest.approx(data.winner.seconds)
    assert found["cloud alone"].total == pytest.approx(latency.alone(STEPS)[0])
    for bar in found.values():
        assert sum(seconds for _, _, seconds in bar.parts) == pytest.approx(bar.total)


def test_text_of_others_stays_text(recorded: RecordedStudy, command: Command) -> None:
    (recorded.folder / "compare").mkdir()
    nasty = '<script>alert("1")</script> & "quoted"'
    pd.DataFrame({"method": ["a"], "label": [nasty], "ssim": [0.9], "seconds": [0.2]}).to_csv(
        recorded.folder / "compare" / "methods.csv", index=False
    )
    shown = written(recorded, command)
    assert shown.counts["script"] == 1
    assert nasty in shown.text
    assert any(title.startswith(nasty) for title in shown.titles)


def test_what_was_found_of_accelerations(recorded: RecordedStudy, command: Command) -> None:
    assert "Accelerations of the cloud model" not in written(recorded, command).text
    folder = recorded.folder / files.METHODS
    folder.mkdir()
    row = {"method": "pab", "spatial": 2, "quality": 0.9123, "work": 0.75, "kept": True}
    pd.DataFrame([row]).to_csv(folder / files.METHODS_TABLE, index=False)
    found = ["cliff between threshold 0.17 and 0.18: mean SSIM 0.98 to 0.60", "PAB: slower than off"]
    (folder / files.METHODS_FINDINGS).write_text("\n".join(found) + "\n")
    shown = written(recorded, command)
    assert "accelerations" in shown.ids
    assert all(line in shown.text for line in (*found, "0.912"))


def test_a_table_that_is_too_long_is_named(recorded: RecordedStudy, command: Command) -> None:
    (recorded.folder / "errors").mkdir()
    pd.DataFrame({"prompt": range(1234)}).to_csv(recorded.folder / "errors" / "theorems.csv", index=False)
    shown = written(recorded, command)
    assert "Too long for this page: errors/theorems.csv in the study's folder, 1,234 rows." in shown.text


def test_commands_that_load_no_model(recorded: RecordedStudy, tmp_path: Path) -> None:
    models = {"diffusers", "transformers"}
    commands = [
        (["rerank", *recorded.arguments()], models | {"matplotlib"}),
        (["table5", f"output_dir={tmp_path / 'new'}"], models),
        (["report", *recorded.arguments()], models | {"matplotlib.pyplot"}),
    ]
    assert loaded_by(commands) == [[], [], []]


# What a user can act on.


def test_other_settings_are_refused(recorded: RecordedStudy, command: Command) -> None:
    outcome = command("report", *recorded.arguments("objective.w1=0.5", "link.mbps=100"))
    refuses(outcome, key="settings", got=["link.mbps 18.88 -> 100.0", "objective.w1 0.3 -> 0.5"])
    assert not (recorded.folder / PAGE).exists()


def test_no_study(tmp_path: Path, command: Command) -> None:
    refuses(command("report", "pair=shapes", f"output_dir={tmp_path}"), key="study", got="default")


@pytest.mark.parametrize(
    "name",
    ["trials.csv", "samples/samples.csv", "samples/00_cloud.png", "noise_profile.csv", files.CALLS],
)
def test_damaged_files(done: Study, tmp_path: Path, name: str) -> None:
    again = done.copy(tmp_path / "outputs")
    before = (again.folder / PAGE).read_bytes()
    (again.folder / name).write_bytes(b"")
    refuses(again("report"), key=again.folder / name)
    assert (again.folder / PAGE).read_bytes() == before


def test_the_plan_of_a_winner_that_takes_turns(
    tmp_path: Path, latency: LatencyProfile, command: Command
) -> None:
    turns = ECDiffParams.interleaved([0, 1, 6], [3, 8, 9, 11], 0.5, 1.0)  # 1C1B1A1M2A1B1A2M1A1M
    recorded = RecordedStudy(tmp_path, with_payload(latency)).write(
        [turns, GRID[0]], of=lambda one: one.residual
    )
    assert "3 crossings of the link" in written(recorded, command).text
    page = (recorded.folder / PAGE).read_text(encoding="utf-8")
    steps = re.findall(r'<i class="([a-z ]+)" title="step \d+: ([^"]+)">', page)
    crossed = {i: kind for i, (kind, _) in enumerate(steps) if "crossed" in kind}
    assert crossed == {3: "edge crossed", 6: "cloud beside crossed"}
    assert steps[6][1] == "cloud call, edge call too, for the residual, the link crossed twice"
    assert steps[9][1] == "edge call, with the residual"
    legend = page.partition('<ul class="legend"><li><i class="cloud">')[2].partition("</ul>")[0]
    assert [one for one in re.sub("<[^>]+>", "|", legend).split("|") if one] == [
        "C cloud call",
        "B cloud and edge call, for the residual",
        "A noise approximated, no call",
        "M edge call with the residual",
        "the link is crossed",
    ]
    assert "HybridSD, s = 3" in {one.name for one in costs.bars(read(recorded))}


def test_the_winner_of_stage_1(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    (again.folder / "ecdiff.yaml").unlink()
    assert again("report").status == 0
    shown = Page.read(again.folder / PAGE)
    assert "stage 2 has not come to an end" in shown.text
    params = TunedConfig.load(again.folder / "stage1.yaml").params
    assert f"k={params.k} alpha={params.alpha:g} s={STEPS}" in shown.text


def test_a_config_that_the_ledger_lacks(recorded: RecordedStudy, done: Study, command: Command) -> None:
    assert key_of(done.config().params) not in {key_of(one) for one in GRID}
    shutil.copy(done.folder / "ecdiff.yaml", recorded.folder)
    assert "the config of ecdiff.yaml is not in the ledger" in written(recorded, command).text
