"""Searches from the command line, on the tiny pair: what they leave, and how they go on after a stop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli import stage
from ecdiff_tune.evaluation import evaluator
from ecdiff_tune.evaluation.candidate import ConfigKey, PlannedCandidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.forecast import reference_placement
from ecdiff_tune.report import costs, page, study_data
from ecdiff_tune.study import files, reference_plan, references

from ..studies import ROUNDED, Command, Study, refuses

pytestmark = pytest.mark.usefixtures("unshown")

SMALL = ("calibration.num_prompts=4", "batch_size=2", "search.s=[6,9]", "heldout.num_prompts=0")
FEW = ("search.finalists=4", "search.front=0")
"""Of searches that predict, where it is no matter how many configs are measured."""


@pytest.fixture(scope="module")
def referenced(
    tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory, command: Command, latency: LatencyProfile
) -> Study:
    """Nothing but a reference and a latency profile."""
    made = Study(tmp_path_factory.mktemp("referenced"), tiny_pair, command).with_latency(latency)
    outcome = made("reference", *SMALL)
    assert outcome.status == 0, outcome
    return made


@pytest.fixture
def study(referenced: Study, tmp_path: Path) -> Study:
    return referenced.copy(tmp_path / "outputs", "latency.json")


def die_after(patch: pytest.MonkeyPatch, batches: int) -> None:
    """Commands are interrupted once so many batches of measurements were kept."""
    append, left = Ledger.append_all, iter(range(batches - 1))

    def append_and_die(ledger: Ledger, rows: dict[ConfigKey, list[tuple[str, Measurement]]]) -> None:
        append(ledger, rows)
        if next(left, None) is None:
            raise KeyboardInterrupt

    patch.setattr(evaluator.Ledger, "append_all", append_and_die)


STOPPED = (
    ("race", "params.p=3"),
    ("optuna", "params.p=3", "search.trials=6"),
    ("schedule", "search.cloud_calls=[4,5]", *FEW),
    ("predict", "params.p=3", *FEW),
    ("predict", "params.p=auto", "search.finalists=2"),
    ("joint", "params.p=3", "search.finalists=4"),
)
"""Searches and their settings; the last two go on to a front."""


@pytest.mark.parametrize("searched", STOPPED, ids=" ".join)
def test_tune_goes_on_after_a_stop(
    searched: Sequence[str], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *settings = searched
    command = ("tune", f"search={name}", *SMALL, *settings)
    outcome = study(*command)
    assert outcome.status == 0, outcome
    trials = study.trials()
    assert set(trials["stage"]) == ({1, 2} if name == "race" else {"joint"})
    complete = trials[trials["state"] == "complete"]
    assert len(complete) > 0
    config = study.config()
    assert config.score is not None
    last = complete[complete["stage"] == complete["stage"].iloc[-1]]
    assert config.score["objective"] == pytest.approx(last["objective"].max(), abs=ROUNDED)

    other = study.copy(tmp_path / "other", "latency.json")
    with monkeypatch.context() as dying:
        die_after(dying, 2)
        assert other(*command).status == 130
    assert 0 < other.rows() <= study.rows()
    if name in ("predict", "joint", "schedule"):  # killed after the forecast, before anything was scored
        early = other.config()
        assert early.basis == "predicted, not measured"
        assert early.score is not None
        assert {"quality", "seconds", "calls"} < early.score.keys()
        assert "heldout" not in early.score
        refuses(other("compare", *SMALL), key=other.folder / "ecdiff.yaml", got=early.basis)
        assert f"ecdiff.yaml is an early answer ({early.basis})" in other("table5").out
    again = other(*command)
    assert again.status == 0, again
    assert other.rows() == study.rows()
    assert other.config().params == config.params
    assert other.config().score == config.score
    assert not other.config().basis


def check_costs(
    study: Study, settings: Sequence[str], parts: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """See that the page counts what the search spent on its images, in these parts."""
    shown = list[costs.CostRow]()
    with monkeypatch.context() as seen:
        seen.setattr(page, "write", lambda record: shown.extend(costs.costs(study_data.of(record))))
        assert study("report", *settings).status == 0
    spent = pd.read_csv(study.folder / files.CALLS).query("part in ('joint search', 'front')")
    assert set(spent["part"]) == parts
    assert shown[0].images == spent["decode"].sum()
    assert shown[0].calls == (spent["cloud"].sum(), spent["edge"].sum())


def test_a_placed_reference(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "FULL_RUNS", 2)
    monkeypatch.setattr(reference_placement, "BOUND", 1.0)  # the models are random
    command = ("tune", "search=joint", *SMALL, "params.p=3", "search.edge_k=[0]", "search.residual=[0]")
    outcome = study(*command)
    assert outcome.status == 0, outcome
    assert "the cloud's own run on 2 prompts, on the others 3 placed cloud calls" in outcome.out
    assert "reference: 3 placed cloud calls on all but 2 prompts; against their images" in outcome.out
    config, plan = study.config(), reference_plan.read(study.folder)
    assert plan is not None
    with closing(Ledger(study.folder / files.LEDGER)) as ledger:
        key = PlannedCandidate.of_config(config).key
        own, near = ledger.read(key), ledger.read(key, plan.name)
    assert (len(own), len(near)) == (2, 4)
    # What is reported is against the cloud's own run alone.
    score, provenance = config.score or {}, config.provenance or {}
    assert score["num_prompts"] == 2
    assert score["quality"] == pytest.approx(fmean(one.ssim or 0.0 for one in own.values()), abs=ROUNDED)
    bias = fmean((near[name].ssim or 0.0) - (one.ssim or 0.0) for name, one in own.items())
    assert provenance["reference"]["placed_cloud_calls"] == 3
    assert provenance["reference"]["bias"]["prompts"] == 2
    assert abs(bias) > 1e-3
    assert study("rerank", *command[1:]).status == 0
    assert study.config("rerank.yaml").score == score
    assert study("tune", *command[1:], "reference=full").status == 2  # another study
    check_costs(study, command[1:], {"joint search"}, monkeypatch)  # images against either reference once

    other = study.copy(tmp_path / "other", "latency.json")
    for path in other.outputs.rglob("*placed*"):
        path.unlink()
    with monkeypatch.context() as dying:
        die_after(dying, 1)
        assert other(*command).status == 130
    assert other(*command).status == 0
    assert other.rows() == study.rows()
    assert (other.config().params, other.config().score) == (config.params, score)
    assert (other.config().provenance or {})["reference"] == provenance["reference"]


def test_a_joint_search_leaves_a_front(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (
        "search=joint",
        *SMALL,
        "calibration.num_prompts=6",
        "search.k=[1,2,4]",
        "search.alpha=[0.3]",
        "search.finalists=1",
        "params.p=3",
    )
    outcome = study("tune", *command)
    assert outcome.status == 0, outcome
    check_costs(study, command, {"joint search", "front"}, monkeypatch)
    assert "on 5 prompts" in next(line for line in outcome.out.splitlines() if line.startswith("front: "))
    rows = study.rows()
    assert study("pareto", *command, "pareto.pick=1").status == 0
    table, config = pd.read_csv(study.folder / "pareto.csv"), study.config("pareto.yaml")
    assert len(table) > 1
    assert 5 in set(table["prompts"])
    assert len(config.front or ()) == len(table)
    assert study("tune", *command).status == 0
    assert study.rows() == rows  # nothing is measured twice


def test_an_exact_handoff_beside_the_aligned_one(study: Study) -> None:
    command = (
        "search=joint",
        "calibration.num_prompts=6",
        "batch_size=3",
        "heldout.num_prompts=0",
        "search.s=[7]",
        "search.k=[2]",
        "params.p=3",
    )
    command += ("search.edge_k=[0]", "search.residual=[0]", "search.handoff=[aligned,exact]")
    burden = ("objective.w1=0", "objective.w2=0")
    outcome = study("tune", *command, *burden)
    assert outcome.status == 0, outcome
    config = study.config()
    assert config.params == ECDiffParams(3, 2, config.params.alpha, 7)
    assert (config.sampling.handoff, config.plan().schedule) == ("exact", "3C2A1C1A5E")
    assert "handoff exact" in outcome.out
    assert {*study.trials()["handoff"].fillna("")} == {"", "exact"}
    assert {*study.trials()["s"]} == {7, 9}
    assert study("rerank", *command, *burden).status == 0
    assert (study.config("rerank.yaml").params, study.config("rerank.yaml").sampling) == (
        config.params,
        config.sampling,
    )
    assert study("pareto", *command, *burden, "pareto.pick=1").status == 0
    picked = study.config("pareto.yaml")
    plans = {picked.of_row(row).plan().schedule for row in picked.front or ()}
    assert plans <= {"3C2A1C1A5E", "3C2A1C2A1C3E"}
    assert "3C2A1C1A5E" in plans
    assert study("rerank", *command, "objective.w1=1", "objective.w2=0", "objective.w3=0").status == 0
    nearer = study.config("rerank.yaml")
    assert nearer.plan().cloud_calls == 5 - (nearer.sampling.handoff == "exact")


@pytest.mark.parametrize(("far", "doubted"), [(0.0, True), (1.0, False)])
def test_a_forecast_that_misleads_is_named(
    study: Study, monkeypatch: pytest.MonkeyPatch, far: float, doubted: bool
) -> None:
    monkeypatch.setattr(stage, "FAR", far)
    outcome = study("tune", "search=joint", *SMALL, *FEW, "search.k=[2]", "search.alpha=[0.3]", "params.p=3")
    assert outcome.status == 0, outcome
    assert ("the forecast misleads here" in outcome.out) == doubted


def test_one_prompt_and_the_cloud_alone(study: Study) -> None:
    one = ("calibration.num_prompts=1", "heldout.num_prompts=0", "batch_size=3", "search.s=[12]")
    fresh = study.copy(study.outputs.parent / "fresh", "latency.json")
    for path in fresh.outputs.rglob("*.safetensors"):
        path.unlink()
    outcome = fresh("tune", "search=schedule", *one, "search.cloud_calls=[5]", "search.finalists=2")
    assert outcome.status == 0, outcome
    calls = pd.read_csv(fresh.folder / files.CALLS).set_index("part")
    assert [*calls.loc["reference", ["cloud", "edge"]]] == [12, 0]
    assert calls.loc["joint search", "cloud"] <= 2 * 5
    assert calls.loc["joint search", "edge"] == 0
    params = fresh.config().params
    assert params.schedule is not None
    assert len(params.schedule) == 5


def test_where_no_placed_plan_is_near_enough(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "FULL_RUNS", 2)
    monkeypatch.setattr(reference_placement, "BOUND", 0.0)
    outcome = study("tune", "search=predict", *SMALL, *FEW, "params.p=3")
    assert outcome.status == 0, outcome
    assert "no placed plan is near enough; the cloud runs on every prompt" in outcome.out
    config = study.config()
    assert "num_prompts" not in (config.score or {})
    assert "reference" not in (config.provenance or {})


def test_the_study_of_an_optuna_search(study: Study) -> None:
    command = ("tune", "search=optuna", *SMALL, "params.p=3", "search.joint=false", "search.sampler=random")
    assert study(*command, "search.trials=4").status == 0
    more = study(*command, "search.trials=6")
    assert more.status == 0, more
    storage = JournalStorage(JournalFileBackend(str(study.folder / files.JOURNAL)))
    names = ["tiny/default stage 1", "tiny/default stage 2"]
    assert sorted(optuna.get_all_study_names(storage)) == names
    for name in names:
        assert len(optuna.load_study(study_name=name, storage=storage).trials) == 6
    own = optuna.load_study(study_name=names[1], storage=storage)
    second = study.trials().query("stage == 2").set_index("trial")
    assert len(second) > 0
    for number, row in second.iterrows():
        trial = own.trials[int(number)]  # type: ignore[call-overload]
        assert (trial.user_attrs["s"], trial.params.get("s", row["suggested_s"])) == (
            row["s"],
            row["suggested_s"],
        )
        assert trial.user_attrs["objective"] == pytest.approx(row["objective"])


def test_what_a_search_cannot_heed(study: Study) -> None:
    for overrides, about in (
        (("search=race", "latency=wallclock"), {"key": "latency", "got": "wallclock"}),
        (("search.min_quality=0.9",), {"got": "joint", "expected": ["schedule", "optuna"]}),
        (("search.max_seconds=1",), {"key": "search.max_seconds", "expected": ["optuna"]}),
        (("search=optuna", "reference=placed"), {"key": "reference", "got": "placed"}),
        (("search=greedy", "search.joint=true"), {"key": "search.joint", "got": True}),
        (("search=optuna", "search.sampler=bayes"), {"key": "search.sampler", "got": "bayes"}),
        (("search=optuna", "search.extend=true"), {"key": "search.extend", "got": "optuna"}),
        (("search=optuna", "search.trials=0"), {"key": "search.trials", "got": 0, "expected": ">= 1"}),
    ):
        refuses(study("tune", *overrides), **about)
