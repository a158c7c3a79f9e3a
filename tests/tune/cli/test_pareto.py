"""pareto: the front against its definition, what is picked from it, and what is written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core.config import Sampling, TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.cli.pareto import front, picked, rows
from ecdiff_tune.config import ParetoSettings, SettingsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.objective import Score, Trial

from ...refusals import refused
from ..recorded_study import GRID, SPEC, SPREAD, STEPS, RecordedStudy, quality
from ..studies import ROUNDED, Command, one_line


def trial(quality: float, seconds: float, cloud_calls: float) -> Trial:
    params = ECDiffParams.hybrid(int(cloud_calls))
    score = Score(quality, 0.0, 0.5, 0.0)
    return Trial("joint", 1, Candidate(params).resolve(STEPS, "aligned"), (), seconds, score)


LEVELS = st.integers(0, 4).map(float)
SOME = st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=25)


@given(SOME)
def test_the_front_is_what_nothing_dominates(values: list[tuple[float, float, float]]) -> None:
    found = {
        (one.quality, one.seconds, one.plan.cloud_calls) for one in front(trial(*some) for some in values)
    }
    expected = {
        (q, t, b)
        for q, t, b in values
        if not any(q2 >= q and t2 <= t and b2 <= b and (q2, t2, b2) != (q, t, b) for q2, t2, b2 in values)
    }
    assert found == expected


def values(trials: list[Trial]) -> list[tuple[float, float, float]]:
    return [(one.quality, one.seconds, one.plan.cloud_calls) for one in trials]


def test_each_merit_counts() -> None:
    base = trial(0.9, 1.0, 5)
    for better in (trial(0.91, 1.0, 5), trial(0.9, 0.9, 5), trial(0.9, 1.0, 4)):
        assert values(front([base, better])) == values([better])
    assert values(front([base, base])) == values([base, base])
    other = trial(0.95, 1.1, 5)
    assert values(front([other, base])) == values([base, other])


@pytest.mark.parametrize("of_yaml", ["aligned", "exact"])
@pytest.mark.parametrize("of_study", ["aligned", "exact"])
def test_a_row_makes_the_steps_that_were_measured(of_study: Handoff, of_yaml: Handoff) -> None:
    """Each has the handoff that it was measured with, whichever the picked config has."""
    params = ECDiffParams(3, 2, 0.3, 8)
    trials = [
        Trial("joint", 1, Candidate(params, handoff=own).resolve(STEPS, of_study), (), 1.0, FRONT[0].score)
        for own in (None, "aligned", "exact")
    ]
    sampling = Sampling(STEPS, handoff=of_yaml)
    config = TunedConfig(SPEC, params, sampling, front=rows(trials, sampling, of_study, 0))
    config = TunedConfig.from_yaml(config.to_yaml())
    assert config.front is not None
    made = [config.of_row(row).plan().schedule for row in config.front]
    assert made == [one.plan.schedule for one in trials]
    assert made[1] != made[2]


FRONT = [trial(0.7, 0.5, 1), trial(0.95, 0.6, 9), trial(0.85, 0.7, 2), trial(0.96, 0.9, 6)]


@pytest.mark.parametrize(
    ("pick", "row"),
    [
        (ParetoSettings("1"), 0),
        (ParetoSettings("4"), 3),
        (ParetoSettings("fastest_above", quality=0.9), 1),
        (ParetoSettings("fastest_above", quality=0.96), 3),
        (ParetoSettings("best_below", seconds=0.8), 1),
        (ParetoSettings("best_below", seconds=0.5), 0),
    ],
)
def test_picks(pick: ParetoSettings, row: int) -> None:
    assert picked(FRONT, pick) is FRONT[row]


@pytest.mark.parametrize(
    ("pick", "key", "got", "expected"),
    [
        (ParetoSettings("0"), "pareto.pick", 0, "to be a row, 1 … 4"),
        (ParetoSettings("5"), "pareto.pick", 5, "to be a row, 1 … 4"),
        (ParetoSettings("fastest_above", quality=0.99), "pareto.quality", 0.99, "<= 0.9600"),
        (ParetoSettings("best_below", seconds=0.4), "pareto.seconds", 0.4, ">= 0.5"),
    ],
)
def test_picks_that_are_not_there(pick: ParetoSettings, key: str, got: float, expected: str) -> None:
    with refused(SettingsError, key=key, got=got, expected=expected):
        picked(FRONT, pick)


def test_the_command(tmp_path: Path, latency: LatencyProfile, command: Command) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    outcome = command("pareto", *study.arguments())
    assert outcome.status == 0, outcome
    table = pd.read_csv(study.folder / "pareto.csv")
    assert table["number"].tolist() == list(range(1, len(table) + 1))
    assert table["seconds"].is_monotonic_increasing
    assert 1 < len(table) < len(GRID)
    for row in table.itertuples():
        params = ECDiffParams(row.p, row.k, row.alpha, row.s)
        assert params in GRID
        assert row.quality == pytest.approx(quality(params))
        assert row.seconds == pytest.approx(latency.seconds(plan(params, STEPS)))
    assert sum(line.startswith("| ") for line in outcome.out.splitlines()) == len(table) + 1
    assert not (study.folder / "pareto.yaml").exists()

    for pick in (["pareto.pick=2"], ["pareto.pick=fastest_above", "pareto.quality=0.85"]):
        outcome = command("pareto", *study.arguments(*pick))
        assert outcome.status == 0, outcome
        config = TunedConfig.load(study.folder / "pareto.yaml")
        good = table[table["quality"] >= 0.85] if len(pick) == 2 else table[table["number"] == 2]
        assert (config.params.k, config.params.s) == tuple(good.iloc[0][["k", "s"]])
        assert config.provenance is not None
        assert config.provenance["chosen"]["by"] == "pareto"
        assert config.provenance["chosen"]["pick"] == pick[0].partition("=")[2]
    assert config.front is not None
    kept = [(one.quality, one.seconds, one.params.k, one.params.s) for one in config.front]
    assert kept == [
        (pytest.approx(row.quality), pytest.approx(row.seconds), row.k, row.s) for row in table.itertuples()
    ]
    assert config.params in [one.params for one in config.front]


def test_configs_of_few_prompts_are_on_the_front(
    tmp_path: Path, latency: LatencyProfile, command: Command
) -> None:
    """As a joint search leaves them: one config measured on all prompts, others on the first five."""
    few = sorted(GRID, key=quality)[:-1]
    study = RecordedStudy(tmp_path, latency, spread=SPREAD * 2)
    study.write(rows=dict.fromkeys(few, 5) | {few[0]: 4})
    outcome = command("pareto", *study.arguments("pareto.pick=1"))
    assert outcome.status == 0, outcome
    table, config = pd.read_csv(study.folder / "pareto.csv"), TunedConfig.load(study.folder / "pareto.yaml")
    assert len(table) > 2
    assert set(table["prompts"]) == {5, 8}
    of_five = table[table["prompts"] == 5]
    for row in of_five.itertuples():
        params = ECDiffParams(row.p, row.k, row.alpha, row.s)
        assert params in few[1:]
        assert row.quality == pytest.approx(quality(params))  # whose first five prompts are easier than all
        assert row.quality_low < row.quality < row.quality_high
    assert config.front is not None
    assert [one.num_prompts for one in config.front] == [None if n == 8 else n for n in table["prompts"]]
    assert config.score is not None
    assert config.score.get("num_prompts", 8) == table["prompts"][0] == 5
    measured = (
        quality(config.params) + SPREAD[0] / 5
    )  # its own first five, of which the fifth is like the first
    assert config.score["quality"] == pytest.approx(measured, abs=ROUNDED)
    assert "quality 95%" in outcome.out


def test_a_bad_limit(tmp_path: Path, latency: LatencyProfile, command: Command) -> None:
    study = RecordedStudy(tmp_path, latency).write(GRID[:2])
    line = one_line(command("pareto", *study.arguments("pareto.pick=fastest_above", "pareto.quality=2")))
    assert line.startswith("error: Expected pareto.quality <= 1, got 2.0. Meaning: least mean SSIM")
