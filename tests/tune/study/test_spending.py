"""What a run spends: every call of a model and every decode, in the right part, also after a stop."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ecdiff_core.models.pair import Pair
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.model_calls import KINDS
from ecdiff_tune.study import files, open_study
from ecdiff_tune.study.spec import StudySpec
from ecdiff_tune.study.spending import LATENCY, Spending

from ..studies import STEPS, Study, draw_nothing

SMALL = ("params.p=3", "search.k=[1]", "search.alpha=[0.3,0.7]", "search.s=[6,9]")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, latency: LatencyProfile) -> Counter[str]:
    """What the models of every study are really asked, by prompt: guidance asks them twice."""
    found: Counter[str] = Counter()
    load, measure = open_study.load_pipe, latency_module.measure

    def measure_in_vain(*given: Any, **more: Any) -> LatencyProfile:
        """On a busy machine the small edge may seem slower than its cloud."""
        measure(*given, **more)
        return latency

    monkeypatch.setattr(latency_module, "measure", measure_in_vain)

    def load_and_count(spec: StudySpec, pair: Pair | None) -> ECDiffPipeline:
        pipe = load(spec, pair)
        family = pipe.pair.family
        decode = family.decode
        for name in ("cloud", "edge"):

            def count(_module: Any, given: Any, _output: Any, name: str = name) -> None:
                found[name] += len(given[0]) // 2

            getattr(pipe.pair, name).register_forward_hook(count)

        def decode_and_count(latents: Any) -> Any:
            found["decode"] += len(latents)
            return decode(latents)

        monkeypatch.setattr(family, "decode", decode_and_count)
        return pipe

    monkeypatch.setattr(open_study, "load_pipe", load_and_count)
    draw_nothing(monkeypatch)
    return found


def table(study: Study) -> pd.DataFrame:
    return pd.read_csv(study.folder / files.CALLS)


def told(out: str) -> dict[str, int]:
    (line,) = [line for line in out.splitlines() if line.startswith("this run:")]
    whole, _, parts = line.partition(" (")
    made = re.search(r"reference ([\d,]+) \+ ([\d,]+)", parts)
    numbers = [*re.findall(r"[\d,]*\d", whole), *(made.groups() if made else ("0", "0"))]
    found = (int(one.replace(",", "")) for one in numbers)
    return dict(zip((*KINDS, "reference_cloud", "reference_edge"), found, strict=True))


@pytest.mark.parametrize("search", ["greedy", "joint"])
def test_every_call_is_counted(search: str, study: Study, counted: Counter[str]) -> None:
    (study.folder / "latency.json").unlink()
    few = ("search.finalists=3", "search.front=2") if search == "joint" else ()
    outcome = study("tune", f"search={search}", *SMALL, *few)
    assert outcome.status == 0, outcome
    first = told(outcome.out)
    assert {kind: first[kind] for kind in KINDS} == counted
    rows = table(study).set_index("part")
    assert {kind: rows[kind].sum() for kind in KINDS} == counted
    assert [*rows.loc["latency", [*KINDS]]] == [latency_module.CALLS] * 3
    passes = 0 if search == "greedy" else 3 * STEPS
    assert [*rows.loc["reference", [*KINDS]]] == [3 * STEPS, 3 * STEPS + passes, 6]
    assert (first["reference_cloud"], first["reference_edge"]) == (3 * STEPS, 3 * STEPS + passes)
    assert [*rows.loc["held-out reference", [*KINDS]]] == [2 * STEPS, 0, 2]
    plan = study.config().plan()
    assert [*rows.loc["held-out", [*KINDS]]] == [2 * plan.cloud_calls, 2 * plan.edge_calls, 2]
    searching = {"joint search"} if search == "joint" else {"stage 1", "stage 2"}
    assert searching <= set(rows.index)
    assert (rows["seconds"] > 0).any()

    counted.clear()
    again = study("tune", f"search={search}", *SMALL, *few)
    assert {kind: told(again.out)[kind] for kind in KINDS} == {kind: counted[kind] for kind in KINDS}
    both = table(study)
    assert both["run"].nunique() == 2
    assert set(both[(both["run"] == both["run"].iloc[-1]) & (both["cloud"] > 0)]["part"]) == {"samples"}


def test_edge_passes_that_come_later(study: Study, counted: Counter[str]) -> None:
    assert study("reference").status == 0
    counted.clear()
    outcome = study("stage1", "search=predict", "study=later")
    assert outcome.status == 0, outcome
    assert {kind: told(outcome.out)[kind] for kind in KINDS} == counted
    assert told(outcome.out)["reference_cloud"] == 3 * STEPS


def test_a_part_inside_another_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / files.CALLS
    spending = Spending(path)
    spending.calls["cloud"] += 1  # in no part
    with spending.part("outer"):
        spending.calls.update(cloud=2, edge=1)
        with spending.part("inner"):
            spending.calls["cloud"] += 4
            time.sleep(0.02)
        spending.calls["decode"] += 8
    found = pd.read_csv(path).set_index("part")
    assert [*found.loc["outer", [*KINDS]]] == [2, 1, 8]
    assert [*found.loc["inner", [*KINDS]]] == [4, 0, 0]
    assert found.loc["inner", "seconds"] >= 0.02
    with spending.part(LATENCY):
        spending.calls.update(cloud=18, edge=18)
    assert spending.describe() == (
        f"this run: 25 cloud calls, 19 edge calls, 8 decodes (latency 18 + 18, every part in {path.name})"
    )


def test_what_was_saved_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / files.CALLS
    killed = Spending(path)
    with killed.part("search"):
        killed.calls["cloud"] += 5
        killed.save()
        again = pd.read_csv(path)
        killed.calls["cloud"] += 1
    assert [*again["cloud"]] == [5]
    with Spending(path).part("search"):
        pass
    assert [*pd.read_csv(path)["cloud"]] == [6, 0]
    path.write_text("no, table", encoding="utf-8")
    with Spending(path).part("search"):
        pass
    assert [*pd.read_csv(path)["cloud"]] == [0]
