"""The Optuna search: what its study holds, what it never pays for, and how it goes on after a stop."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import PairSettings, SearchSettings, Settings
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search.options import SAMPLERS, Options, OptunaOptions, SearchError, check_installed
from ecdiff_tune.search.spaces import JointSpace, Stage1Space
from ecdiff_tune.search.suggest import Dimension, Dimensions
from ecdiff_tune.study.optuna_setup import SOME_PAIR, papers_params, search_options
from ecdiff_tune.testing import NEVER, whole

from ...refusals import refused
from ..worlds import ALIASES, HANDOFFS, JOINT, OBJECTIVES, SPACES, World, evaluations

PEAK = World(OBJECTIVES["peak"], noise=0.02)


def world(path: Path | None = None, *, of: World = PEAK, **settings: Any) -> World:
    """A world whose options make a study, kept in a journal or in memory."""
    given = {"trials": 20, "storage": None if path is None else str(path), **settings}
    return replace(of, options=Options(optuna=OptunaOptions(**given)))


def trials(path: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="ecdiff", storage=storage).trials


def told(found: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """What of finished trials must be the same however often the search was stopped."""
    return [
        (one.params, one.values, one.state, one.user_attrs.get("pruned"))
        for one in found
        if one.state.is_finished() and one.state != TrialState.FAIL
    ]


# Suggestions.


@pytest.mark.parametrize(
    ("values", "name", "distribution"),
    [
        ((1, 2, 3), "x", IntDistribution(1, 3)),
        ((40, 30, 35), "x", IntDistribution(30, 40, step=5)),
        ((7,), "x", IntDistribution(7, 7)),
        ((0.1, 0.2, 0.3), "x_tenths", IntDistribution(1, 3)),
        ((0.25, 0.5, 0.75), "x_hundredths", IntDistribution(25, 75, step=25)),
        ((0.1, 0.15, 0.9), "x", CategoricalDistribution((0.1, 0.15, 0.9))),
        ((0.123, 0.223), "x", CategoricalDistribution((0.123, 0.223))),
        ((1, 2, 8), "x", CategoricalDistribution((1, 2, 8))),
        (("gradient", "reuse"), "x", CategoricalDistribution(("gradient", "reuse"))),
    ],
)
def test_knobs(values: tuple[Any, ...], name: str, distribution: object) -> None:
    knob = Dimension.of("x", values)
    assert (knob.name, knob.distribution) == (name, distribution)
    assert sorted(knob.values.values()) == sorted(values)
    for value in values:
        assert knob.values[knob.suggestion(value)] == value


def test_what_is_suggested_is_in_the_grid() -> None:
    for space in (*SPACES.values(), ALIASES, JOINT):
        knobs = Dimensions(space)
        for one in space.grid:
            assert knobs.candidate(knobs.nearest(one)) == one


def test_handoffs_are_suggested_where_there_are_two() -> None:
    dimensions = Dimensions(HANDOFFS)
    assert "handoff" in dimensions.distributions
    assert "handoff" not in Dimensions(JOINT).distributions
    start = dimensions.nearest(Candidate(ECDiffParams(5, 1, 0.3, 32)))
    assert start["handoff"] == "aligned"
    found = [dimensions.candidate({**start, "k": 3, "handoff": one}) for one in ("aligned", "exact")]
    assert [(one.params.s, one.handoff) for one in found if one] == [(33, None), (32, "exact")]


def test_params_that_contradict_each_other() -> None:
    knobs = Dimensions(JointSpace((1, 35), (0, 2), (0.3,), (30, 40), 50, "exact"))
    assert knobs.candidate({"p": 35, "k": 0, "s": 30}) is None
    assert knobs.candidate({"p": 1, "k": 2, "s": 30}) is None
    assert knobs.candidate({"p": 1, "k": 0, "s": 30}) is not None


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random", "grid", "gp"])
def test_every_sampler_works(name: str) -> None:
    some = world(sampler=name, trials=13)
    search = some.search("optuna", JOINT)
    trace = some.drive(search)
    assert search.best is not None
    assert evaluations(trace, some.num_prompts) <= 13 * some.num_prompts
    assert some.drive(some.search("optuna", JOINT)) == trace


def test_tpe_finds_the_peak() -> None:
    some = world(trials=60, of=World(OBJECTIVES["peak"], 10))
    search = some.search("optuna", JOINT)
    some.drive(search)
    best = max(some.mean(one) for one in JOINT.grid)
    assert search.best is not None
    assert some.mean(search.best) > best - 0.1


def test_the_grid_is_the_whole_grid_once() -> None:
    some = world(sampler="grid", trials=1000)
    trace = some.drive(some.search("optuna", JOINT))
    assert {one for ask, _ in trace for one in ask.candidates} <= set(JOINT.grid)
    few = world(sampler="grid", trials=1000, of=World(OBJECTIVES["flat"], 5))
    assert set(whole(few.drive(few.search("optuna", JOINT)))) == set(JOINT.grid)


@pytest.mark.parametrize(
    ("given", "storage", "artifacts"),
    [
        ({"storage": "~/journal"}, "/me/journal", "/me/journal.artifacts"),
        ({"storage": "sqlite:///~/a.db", "artifacts": "~/kept"}, "sqlite:///~/a.db", "/me/kept"),
        ({}, "outputs/mine/default/optuna.journal", "outputs/mine/default/artifacts"),
    ],
)
def test_where_the_study_lies(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], storage: str, artifacts: str
) -> None:
    monkeypatch.setenv("HOME", "/me")
    settings = Settings(pair=PairSettings("mine", "a", "b"), search=SearchSettings("optuna", **given))  # type: ignore[arg-type]
    found = search_options(study_spec(settings), JOINT).optuna
    assert (found.storage, found.artifacts) == (storage, artifacts)


def test_it_begins_with_the_papers_params_moved_into_the_grid() -> None:
    some = world(start=ECDiffParams(7, 2, 0.3, 34))
    assert some.search("optuna", JOINT).ask().candidates[0].params == ECDiffParams(7, 2, 0.3, 34)
    moved = some.search("optuna", Stage1Space(5, (3, 4), (0.4, 0.8), 50))
    assert moved.ask().candidates[0].params == ECDiffParams(5, 3, 0.4, 50)


@pytest.mark.parametrize(
    ("pair", "steps", "params"),
    [
        ("sdxl_ssd1b", 50, (10, 3, 0.2, 38)),
        ("mine", 50, (7, 2, 0.3, 34)),
        ("mine", 25, (4, 2, 0.3, 17)),
        ("mine", 10, (2, 2, 0.3, 7)),
    ],
)
def test_the_papers_params(pair: str, steps: int, params: tuple[Any, ...]) -> None:
    if pair != "mine" and steps == 50:
        assert (
            papers_params(pair, steps) == TunedConfig.load(config_folder() / "tuned" / f"{pair}.yaml").params
        )
    elif steps == 50:
        row = TunedConfig.load(config_folder() / "tuned" / f"{SOME_PAIR}.yaml").params
        assert papers_params(pair, steps) == row == ECDiffParams(*params)
    else:
        assert papers_params(pair, steps) == ECDiffParams(*params)


# What the study holds.


def test_a_trial_tells_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    some = world(path, trials=25)
    search = some.search("optuna", JOINT)
    measured = whole(some.drive(search))
    found = trials(path)
    assert len(found) == 25
    first = next(one for one in found if one.user_attrs["prompts"] == some.num_prompts)
    attributes = first.user_attrs
    params = ECDiffParams(*(attributes[name] for name in ("p", "k", "alpha", "s")))
    candidate = Candidate(params, attributes["estimator"], attributes["handoff_adapter"])
    assert first.value == pytest.approx(measured[candidate])
    assert attributes["objective"] == first.value
    assert {"quality", "efficiency", "burden", "seconds"} <= set(attributes)
    assert {"cloud_calls", "approximated", "edge_calls"} <= set(attributes)
    assert set(first.intermediate_values) == {5, 10, 20, 40}
    assert first.intermediate_values[40] == pytest.approx(first.value)
    assert search.best is not None
    best = optuna.load_study(study_name="ecdiff", storage=_journal(path)).best_trial
    assert best.user_attrs["prompts"] == some.num_prompts, "no pruned trial is Optuna's best"
    assert best.value == pytest.approx(measured[search.best])


def _journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def test_no_config_is_measured_twice(tmp_path: Path) -> None:
    path, some = tmp_path / "journal", world(tmp_path / "journal", trials=30)
    space = Stage1Space(7, (1, 2), (0.3, 0.5), 50)
    trace = some.drive(some.search("optuna", space))
    assert len(trials(path)) == 30
    assert {one for ask, _ in trace for one in ask.candidates} <= set(space.grid)
    assert sum(ask.prompts is None for ask, _ in trace) <= 4
    known: dict[int, FrozenTrial] = {one.number: one for one in trials(path)}
    repeats = [one for one in known.values() if "same_as" in one.user_attrs]
    assert len(repeats) >= 26
    for one in repeats:
        assert one.values == known[one.user_attrs["same_as"]].values
        assert one.params == known[one.user_attrs["same_as"]].params


def test_candidates_know_the_trial_that_they_come_from(tmp_path: Path) -> None:
    path, some = tmp_path / "journal", world(tmp_path / "journal", trials=30)
    search = some.search("optuna", JOINT)
    trace = some.drive(search)
    known = {one.number: one for one in trials(path)}
    assert {one for ask, _ in trace for one in ask.candidates} <= search.origins.keys()
    for candidate, origin in search.origins.items():
        trial = known[origin.number]
        assert "same_as" not in trial.user_attrs
        assert (trial.params["s"], trial.user_attrs["s"]) == (origin.s, candidate.params.s)
    assert any(origin.s != candidate.params.s for candidate, origin in search.origins.items())


def test_losers_are_pruned_and_rank_below_the_best(tmp_path: Path) -> None:
    path, some = tmp_path / "journal", world(tmp_path / "journal", trials=30)
    search = some.search("optuna", JOINT)
    trace = some.drive(search)
    assert evaluations(trace, some.num_prompts) < 20 * some.num_prompts
    pruned = [one for one in trials(path) if "race" in one.user_attrs.get("pruned", "")]
    assert pruned
    assert search.best is not None
    for one in pruned:
        assert one.state == TrialState.COMPLETE
        assert one.user_attrs["prompts"] < some.num_prompts
        assert one.value is not None
        assert one.value < some.mean(search.best)
    unseen = [one for one in trials(path) if one.user_attrs.get("pruned") == "bound"]
    assert all(one.state == TrialState.PRUNED for one in unseen if not one.user_attrs["prompts"])


def test_infeasible_configs_are_pruned(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    some = world(path, of=World(lambda c: NEVER if c.alpha == 0.5 else 0.0))
    search = some.search("optuna", JOINT)
    some.drive(search)
    spoilt = [one for one in trials(path) if one.user_attrs.get("pruned") == "infeasible"]
    assert spoilt
    assert {one.state for one in spoilt} == {TrialState.PRUNED}
    assert search.best is not None


# Limits and several objectives.


def test_limits_hold(tmp_path: Path) -> None:
    # The peak has quality 0.6 ± noise; seconds are s.
    path = tmp_path / "journal"
    some = world(path, max_seconds=35.5, min_quality=0.6, trials=30)
    search = some.search("optuna", JOINT)
    trace = some.drive(search)
    assert all(one.params.s < 35.5 for ask, _ in trace for one in ask.candidates), "known before any call"
    assert search.best is not None
    (score,) = [
        result.score
        for ask, told in trace
        if ask.prompts is None
        for one, result in zip(ask.candidates, told, strict=True)
        if one == search.best
    ]
    assert score is not None
    assert score.quality >= 0.6
    slow = [one for one in trials(path) if one.user_attrs.get("pruned") == "max_seconds"]
    assert slow
    assert all(one.constraints["max_seconds"] > 0 for one in slow)
    assert any("min_quality" in one.constraints for one in trials(path))


def test_limits_that_nothing_keeps() -> None:
    for limits in ({"min_quality": 1.0}, {"max_seconds": 1.0}):
        some = world(**limits)
        search = some.search("optuna", JOINT)
        some.drive(search)
        assert search.done
        assert search.best is None


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    some = world(path, objectives=("quality", "seconds"), trials=15)
    search = some.search("optuna", JOINT)
    measured = whole(some.drive(search))
    study = optuna.load_study(study_name="ecdiff", storage=_journal(path))
    assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["quality", "seconds"]
    front = [Dimensions(JOINT).candidate(one.params) for one in study.best_trials]
    assert search.best == max(front, key=lambda one: measured[one])  # type: ignore[index]
    for one in study.best_trials:
        quality, seconds = one.values
        assert not any(o.values[0] > quality and o.values[1] < seconds for o in study.trials if o.values)


def test_one_objective_that_is_not_eq_12() -> None:
    some = world(objectives=("seconds",), sampler="grid", trials=1000, of=World(OBJECTIVES["peak"], 6))
    search = some.search("optuna", JOINT)
    some.drive(search)
    assert search.best is not None
    assert search.best.params.s == min(one.params.s for one in JOINT.grid)


def test_stage_1_has_no_burden() -> None:
    with refused(SearchError, key="search.objectives", got="burden"):
        world(objectives=("quality", "burden")).search("optuna", SPACES["stage 1"])


# Going on.


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_goes_on_after_a_stop_at_any_moment(sampler: str, tmp_path: Path) -> None:
    settings = {"sampler": sampler, "trials": 12, "start": ECDiffParams(7, 2, 0.3, 34)}
    undisturbed = world(tmp_path / "undisturbed", **settings)
    search = undisturbed.search("optuna", JOINT)
    trace = undisturbed.drive(search)
    path = tmp_path / "stopped"
    stopped = world(path, **settings)
    ledger: set[tuple[Candidate, int]] = set()
    best = None
    for stop in range(3, 1000, 5):  # killed after so many more asks, then made anew
        again = stopped.search("optuna", JOINT)
        for _ in range(stop):
            if again.done:
                break
            ask = again.ask()
            ledger |= {(one, i) for one in ask.candidates for i in range(ask.prompts or stopped.num_prompts)}
            again.tell(stopped.answer(ask))
        if again.done:
            best = again.best
            break
    assert best == search.best
    assert told(trials(path)) == told(trials(tmp_path / "undisturbed"))
    assert len(ledger) == evaluations(trace, stopped.num_prompts), "nothing was generated twice"


def test_a_killed_process_leaves_half_a_line_and_a_lock(tmp_path: Path) -> None:
    path, some = tmp_path / "journal", world(tmp_path / "journal", trials=6)
    search = some.search("optuna", JOINT)
    search.tell(some.answer(search.ask()))
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    path.with_name("journal.lock").symlink_to(path)
    again = some.search("optuna", JOINT)
    some.drive(again)
    assert again.best is not None
    assert not path.with_name("journal.lock").is_symlink()


def test_more_trials_go_on_with_a_study(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    some = world(path, trials=5)
    some.drive(some.search("optuna", JOINT))
    more = world(path, trials=9)
    search = more.search("optuna", JOINT)
    more.drive(search)
    assert len(trials(path)) == 9
    assert search.best is not None


# What cannot be used.


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trials", 0, ">= 1"),
        ("sampler", "tpee", sorted(SAMPLERS)),
        ("objectives", (), "to hold at least one value, none twice"),
        ("objectives", ("quality", "quality"), "to hold at least one value, none twice"),
        ("min_quality", 1.5, "<= 1"),
        ("max_seconds", 0.0, "> 0"),
    ],
)
def test_options_out_of_range(key: str, value: Any, expected: object) -> None:
    with refused(SearchError, key=f"search.{key}", got=value, expected=expected):
        OptunaOptions(**{key: value})


def test_an_unknown_objective() -> None:
    with refused(SearchError, key="search.objectives[1]", got="qualty", nearest="quality"):
        OptunaOptions(objectives=("burden", "qualty"))


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else there(name))
    with refused(SearchError, key="search.sampler", got="cmaes", expected=["cmaes"]):
        check_installed("cmaes")
    check_installed("tpe")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused(SearchError, key="search", got="optuna", expected=["optuna"]):
        check_installed("tpe")


def test_another_study_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    some = world(path, trials=2)
    some.drive(some.search("optuna", JOINT))
    other = world(path, trials=4, objectives=("quality", "seconds"))
    with refused(SearchError, key="search.study_name", got=["objective"], expected=["quality", "seconds"]):
        other.search("optuna", JOINT)


def test_a_storage_that_does_not_work(tmp_path: Path) -> None:
    some = world()
    for storage in ("nonsense://x", str(tmp_path / "missing" / "journal"), f"sqlite:///{tmp_path}/no/x.db"):
        broken = replace(some, options=Options(optuna=OptunaOptions(storage=storage, worker="a")))
        with refused(SearchError, key="search.storage", got=storage):
            broken.search("optuna", JOINT)
