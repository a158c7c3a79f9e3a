"""From measurements to scores, and the loop over a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate, PlannedCandidate
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.evaluation.reference import PromptReference, Reference
from ecdiff_tune.objective import ObjectiveError, Scorer, Trial, Weights
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.base import Context
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space
from ecdiff_tune.study.loop import NoWinnerError, run
from ecdiff_tune.study.progress import Progress

from ...refusals import refused

NOTHING_KNOWN = Context(2, lambda _, quality: quality, lambda candidates: [0.5] * len(candidates))
WEIGHTS = Weights(w1=0.5, w2=0.25, w3=2.0)
TUNED = ECDiffParams(3, 2, 0.3, 9)  # 3C2A1C2A1C3E


def of(*ssims: float | None, seconds: float = 0.1) -> tuple[Measurement, ...]:
    return tuple(Measurement(one, None if one is None else 30.0, seconds) for one in ssims)


def timed_reference(*seconds: tuple[float, float]) -> Reference:
    none = torch.zeros(0)
    made = tuple(PromptReference(Path(), none, none, torch.tensor(s)) for s in seconds)
    return Reference(made, CalibrationSet(("a",) * len(made), (0,) * len(made)))


class Measured:
    """Stands in for the evaluator: every prompt's SSIM is a function of the config."""

    def __init__(self, ssim: Callable[[ECDiffParams], float | None]) -> None:
        self._ssim = ssim

    def resolve(self, candidate: Candidate) -> PlannedCandidate:
        return candidate.resolve(12, "aligned")

    def missing(self, configs: list[PlannedCandidate], first: int | None) -> int:
        return 2

    def measure(
        self, configs: list[PlannedCandidate], on_prompts: Callable[[int], None], first: int | None
    ) -> list[tuple[Measurement, ...]]:
        on_prompts(2)
        found = [self._ssim(one.candidate.params) for one in configs]
        return [of(one, one) for one in found]

    def forget(self, config: PlannedCandidate) -> None:
        pass


def test_score_by_hand(latency: LatencyProfile) -> None:
    # t_cloud = 0.008 + 12 * 0.020 = 0.248, t_edge = 0.008 + 12 * 0.008 = 0.104,
    # t = 0.008 + 5 * 0.020 + 3 * 0.008 + 0.010 = 0.142.
    found = Scorer(latency, WEIGHTS, earliest_s=7).score(plan(TUNED, 12), of(0.9, 0.8, 0.4), True)
    assert found is not None
    assert found.quality == pytest.approx(0.7)
    assert found.efficiency == pytest.approx(0.106 / 0.144)
    assert found.burden == pytest.approx(3 / 5)
    assert found.objective == pytest.approx(0.5 * 0.7 + 0.25 * 0.106 / 0.144 + 2.0 * 0.6)


def test_burden_counts_the_steps_that_the_plan_really_hands_over(latency: LatencyProfile) -> None:
    scorer = Scorer(latency, WEIGHTS, earliest_s=7)
    early = ECDiffParams(3, 2, 0.3, 7)  # aligned: hands over at 9
    found = scorer.score(plan(early, 12), of(0.9), True)
    assert found is not None
    assert found.burden == pytest.approx(3 / 5)
    cut = scorer.score(plan(early, 12, "exact"), of(0.9), True)
    assert cut is not None
    assert cut.burden == pytest.approx(1)


def test_stage_1_has_no_burden(latency: LatencyProfile) -> None:
    whole = ECDiffParams(3, 2, 0.3, 12)
    found = Scorer(latency, WEIGHTS, earliest_s=7).score(plan(whole, 12), of(0.8), False)
    assert found is not None
    assert found.burden is None
    assert found.objective == pytest.approx(0.5 * 0.8 + 0.25 * (0.248 - 0.128) / 0.144)


def test_one_prompt_that_is_not_finite_makes_a_config_infeasible(latency: LatencyProfile) -> None:
    scorer = Scorer(latency, WEIGHTS, earliest_s=7)
    assert scorer.score(plan(TUNED, 12), of(0.9, None, 0.8), True) is None


def test_by_the_clock(latency: LatencyProfile) -> None:
    reference = timed_reference((2.0, 1.0), (3.0, 1.5), (9.0, 0.1))
    scorer = Scorer.of(latency, WEIGHTS, 7, reference)
    assert scorer.cloud_and_edge_seconds(12) == pytest.approx((3.008, 1.008))  # encode and decode
    found = (*of(0.9, seconds=1.0), *of(0.9, seconds=2.5), *of(0.9, seconds=1.2))
    assert scorer.seconds(plan(TUNED, 12), found) == pytest.approx(1.2 + 0.003 + 0.010)
    assert scorer.seconds(plan(ECDiffParams(3, 2, 0.3, 12), 12), found) == pytest.approx(1.2 + 0.003)
    score = scorer.score(plan(TUNED, 12), found, True)
    assert score is not None
    assert score.efficiency == pytest.approx((3.008 - 1.213) / 2.0)


def test_by_the_profile(latency: LatencyProfile) -> None:
    scorer = Scorer.of(latency, WEIGHTS, 7, None)
    assert scorer.cloud_and_edge_seconds(12) == pytest.approx((0.248, 0.104))
    assert scorer.seconds(plan(TUNED, 12), of(0.9, seconds=99.0)) == pytest.approx(0.142)


def test_a_cloud_that_is_not_slower(latency: LatencyProfile) -> None:
    scorer = Scorer.of(latency, WEIGHTS, 7, timed_reference((1.0, 1.0)))
    with refused(ObjectiveError, key="efficiency"):
        scorer.score(plan(TUNED, 12), of(0.9), True)


def test_run_tells_the_search_every_objective(
    latency: LatencyProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    space, trials = Stage1Space(3, (1, 2), (0.3, 0.5, 0.7), 12), list[Trial]()
    scorer = Scorer(latency, Weights(w1=1, w2=0, w3=0), earliest_s=7)
    measured = Measured(lambda params: 0.5 + params.k / 10 - abs(params.alpha - 0.7))
    winner = run(
        1, SEARCHES["exhaustive"].make(space, NOTHING_KNOWN), measured, scorer, Progress(), trials.append
    )  # type: ignore[arg-type]
    assert [trial.candidate for trial in trials] == list(space.grid)
    assert [trial.number for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert {trial.stage for trial in trials} == {1}
    assert [trial.value for trial in trials] == pytest.approx([0.2, 0.4, 0.6, 0.3, 0.5, 0.7])
    assert winner is trials[5]
    assert [trial.score.burden for trial in trials if trial.score] == [None] * 6
    assert trials[5].seconds == pytest.approx(latency.seconds(plan(space.at(2, 0.7).params, 12)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "trial  6  k=2 alpha=0.7" in lines[5]
    assert "quality 0.7000" in lines[5]
    assert "best k=2 alpha=0.7" in lines[5]
    assert "best k=1 alpha=0.7" in lines[3]


def test_run_of_stage_2_weighs_the_burden(latency: LatencyProfile) -> None:
    space = Stage2Space.of(Candidate(TUNED), range(7, 13), 12, "aligned")
    scorer = Scorer(latency, Weights(w1=0, w2=0, w3=1), earliest_s=7)
    trials: list[Trial] = []
    winner = run(
        2,
        SEARCHES["exhaustive"].make(space, NOTHING_KNOWN),
        Measured(lambda _: 0.9),  # type: ignore[arg-type]
        scorer,
        Progress(),
        trials.append,
    )
    assert [(trial.candidate.params.s, trial.value) for trial in trials] == [(9, 0.6), (12, 0.0)]
    assert winner.candidate.params.s == 9


def test_infeasible_trials(latency: LatencyProfile, capsys: pytest.CaptureFixture[str]) -> None:
    space, trials = Stage1Space(3, (1,), (0.3, 0.5, 0.7), 12), list[Trial]()
    measured = Measured(lambda params: None if params.alpha == 0.5 else params.alpha)
    scorer = Scorer(latency, Weights(w1=1, w2=0, w3=0), earliest_s=7)
    winner = run(
        1, SEARCHES["greedy"].make(space, NOTHING_KNOWN), measured, scorer, Progress(), trials.append
    )  # type: ignore[arg-type]
    assert [(t.candidate.params.alpha, t.state) for t in trials] == [(0.5, "infeasible"), (0.7, "complete")]
    assert trials[0].score is None
    assert trials[0].value == float("-inf")
    assert winner.candidate.params.alpha == 0.7
    assert "infeasible: latents not finite" in capsys.readouterr().out


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("stage", [1, 2])
def test_no_winner(latency: LatencyProfile, name: str, stage: int) -> None:
    spaces = {
        1: Stage1Space(3, (1, 2), (0.3, 0.5), 12),
        2: Stage2Space.of(Candidate(TUNED), range(7, 11), 12, "exact"),
    }
    scorer = Scorer(latency, WEIGHTS, earliest_s=7)
    with refused(NoWinnerError, key="stage", got=stage, line="none of . configs"):
        run(
            stage,
            SEARCHES[name].make(spaces[stage], NOTHING_KNOWN),
            Measured(lambda _: None),  # type: ignore[arg-type]
            scorer,
            Progress(),
            lambda _: None,
        )
