"""``search=schedule``: its rounds on made-up pairs, and from the command line to images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ecdiff_core import ECDiffPipeline
from ecdiff_core import __main__ as core_main
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.config import SettingsError
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.options import Options
from ecdiff_tune.search.schedule import in_turn
from ecdiff_tune.search.spaces import ScheduleSpace
from ecdiff_tune.testing import whole

from ...refusals import refused
from ..config.test_settings import composed
from ..studies import STEPS, Study, refuses
from ..worlds import SCHEDULES, World

CALLS = range(4, 20)


def placed(calls: int, alpha: float = 0.5, estimator: str = "secant") -> Candidate:
    """So many real steps at the beginning, s = T = 50."""
    return Candidate(ECDiffParams.scheduled(range(calls), alpha, 50), estimator)


BUDGETS = ScheduleSpace(tuple(placed(calls, alpha) for calls in CALLS for alpha in (0.3, 0.5, 0.7)), 50)


class ByCalls(World):
    """Quality rises with the calls, and eq. 12 falls with them; a World's quality has 0.3 of the weight."""

    def _base(self, candidate: Candidate) -> float:
        return 0.5 - 0.05 * len(candidate.params.schedule or ())


def by_calls(least: float, noise: float = 0.0) -> ByCalls:
    def objective(params: ECDiffParams) -> float:
        calls = len(params.schedule or ())
        quality = 1 - 1 / calls - abs(params.alpha - 0.5) / 100
        return 0.5 - 0.05 * calls + 0.3 * quality

    return ByCalls(objective, noise=noise, options=Options(min_quality=least))


@pytest.mark.parametrize("least", [0.7, 0.79, 0.89, 0.93])
def test_the_fewest_calls_of_a_wanted_quality(least: float) -> None:
    world = by_calls(least)
    search = world.search("schedule", BUDGETS)
    trace = world.drive(search)
    fewest = next(calls for calls in CALLS if 1 - 1 / calls >= least)
    assert search.best == placed(fewest)
    asked = {len(one.params.schedule or ()) for ask, _ in trace for one in ask.candidates}
    assert len(asked) <= 5  # of 16 budgets, by bisection
    assert set(BUDGETS.grid) == set(search.pruned) | set(whole(trace))
    again = world.search("schedule", BUDGETS)
    assert world.drive(again) == trace


def test_a_quality_that_nothing_has() -> None:
    world = by_calls(0.97)
    search = world.search("schedule", BUDGETS)
    world.drive(search)
    assert search.best is None
    assert set(search.pruned) == set(BUDGETS.grid)


class CheapAndWorse(ByCalls):
    """With alpha 0.3 eq. 12 is better and the quality worse."""

    def _base(self, candidate: Candidate) -> float:
        return super()._base(candidate) + 0.1 * (candidate.params.alpha == 0.3)


def test_the_winner_has_the_quality_although_a_better_config_was_measured_whole() -> None:
    def objective(params: ECDiffParams) -> float:
        calls, cheap = len(params.schedule or ()), params.alpha == 0.3
        quality = 1 - 1 / calls - abs(params.alpha - 0.5) / 100 - 0.05 * cheap
        return 0.5 - 0.05 * calls + 0.1 * cheap + 0.3 * quality

    # So few prompts that all finalists are measured on all.
    world = CheapAndWorse(objective, 4, options=Options(min_quality=0.89))
    search = world.search("schedule", BUDGETS)
    trace = world.drive(search)
    assert placed(10, 0.3) in whole(trace)
    assert search.best == placed(10)


def test_a_wanted_quality_holds_on_all_prompts() -> None:
    world = by_calls(0.9, noise=0.02)
    search = world.search("schedule", BUDGETS)
    measured = [
        (one, result)
        for ask, told in world.drive(search)
        if ask.prompts is None
        for one, result in zip(ask.candidates, told, strict=True)
    ]
    assert search.best is not None
    for one, result in measured:
        assert result.score is not None
        enough = result.score.quality >= 0.9
        assert enough == (one not in search.pruned)
        assert enough or one != search.best


def test_kinds_take_turns() -> None:
    listed = [placed(9, alpha) for alpha in (0.1, 0.2, 0.3)]
    others = [
        placed(9, 0.1, "newton2"),
        Candidate(ECDiffParams(3, 2, 0.1, 50), "secant"),
        Candidate(ECDiffParams.interleaved((0, 1, 6), (20, 40), 0.1, 1.0), "secant"),
    ]
    assert in_turn([*listed, *others], 50) == [listed[0], *others, *listed[1:]]
    assert in_turn([], 50) == []


def test_the_space_lists_one_candidate_a_image() -> None:
    assert len(SCHEDULES.grid) < len(SCHEDULES.proposed)
    assert set(SCHEDULES.aliases) == set(SCHEDULES.proposed)
    assert SCHEDULES.p == 50


# From the command line.

SMALL = ("search=schedule", "search.finalists=3", "search.alpha=[0.5,1.0]", "heldout.num_prompts=1")


@pytest.mark.usefixtures("unshown")
def test_from_a_number_of_calls_to_images(study: Study, tmp_path: Path) -> None:
    outcome = study("tune", *SMALL, "search.cloud_calls=[5]", f"search.s=[{STEPS}]", "search.k=[8]")
    assert outcome.status == 0, outcome
    assert "placing 5 cloud calls by the forecast" in outcome.out
    trials = study.trials()
    assert set(trials["cloud_calls"]) == {5}
    assert {"schedule", "estimator", "prompts", "pruned"} <= set(trials.columns)
    config = study.config()
    assert config.params.schedule is not None
    assert len(config.params.schedule) == 5
    assert (config.params.p, config.params.k, config.params.s) == (None, None, STEPS)
    text = (study.folder / "ecdiff.yaml").read_text(encoding="utf-8")
    assert "schedule:" in text
    assert "search: schedule" in text
    assert config.provenance is not None
    assert config.provenance["k_and_alpha"] == "joint search"

    pipe = ECDiffPipeline.from_config(study.folder / "ecdiff.yaml", device="cpu")
    assert pipe("a red circle").plan.cloud_calls == 5
    out = tmp_path / "generated"
    arguments = ["generate", "--config", str(study.folder / "ecdiff.yaml"), "--prompt", "a red circle"]
    assert core_main.main([*arguments, "--out", str(out), "--device", "cpu"]) == 0
    with Image.open(out / "00000.png") as image:
        assert image.size == pipe("a red circle").images[0].size

    rows = study.rows()
    again = study("tune", *SMALL, "search.cloud_calls=[5]", f"search.s=[{STEPS}]", "search.k=[8]")
    assert again.status == 0, again
    assert study.rows() == rows
    assert study.config() == config


@pytest.mark.usefixtures("unshown")
def test_a_wanted_quality_and_the_edge_beside(study: Study) -> None:
    wanted = ("search.min_quality=0.5", "search.cloud_calls=[4,8]", "search.estimator=[secant,edge]")
    wanted += ("search.front=2",)
    outcome = study("tune", *SMALL, *wanted, "search.s=[8,12]")
    assert outcome.status == 0, outcome
    score = study.config().score
    assert score is not None
    assert score["quality"] >= 0.5
    outcome = study("tune", *SMALL, *wanted[1:], "search.s=[8,12]", "search.min_quality=1.0", "study=other")
    refuses(outcome, key="stage", line="search.min_quality")


@pytest.mark.parametrize(
    ("name", "override", "key", "got"),
    [
        ("tune", "search.cloud_calls=[2]", "search.cloud_calls", [2]),
        ("tune", "search.cloud_calls=[11]", "search.cloud_calls", [11]),
        ("tune", "search.cloud_calls=[]", "search.cloud_calls", []),
        ("tune", "search.cloud_calls=[5,5]", "search.cloud_calls", [5, 5]),
        ("tune", "search.joint=false", "search.joint", False),
        ("tune", "latency=wallclock", "latency", "wallclock"),
        ("stage1", "seed=0", "search", "schedule"),
        ("stage2", "seed=0", "search", "schedule"),
    ],
)
def test_what_is_refused(study: Study, name: str, override: str, key: str, got: object) -> None:
    refuses(study(name, "search=schedule", override), key=key, got=got)


def test_how_many_calls_by_default() -> None:
    assert composed("search=schedule").cloud_calls == (14,)
    assert composed("search=schedule", "search.min_quality=0.99").cloud_calls == tuple(range(8, 26))
    assert composed("search=schedule").s_values == (30, 35, 40)
    assert composed("search=schedule", "sampling.num_inference_steps=6").cloud_calls == (3,)
    with refused(SettingsError, key="search.cloud_calls", got="joint", expected=["schedule"]):
        composed("search.cloud_calls=[14]")
