"""Measurements: what they say, what is shared, what is never generated twice, and what is not finite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecdiff_core.models.memory import Batches, OutOfMemoryError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling import estimators
from ecdiff_core.sampling.estimators import Alpha, NoiseState
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.metrics.images import psnr, ssim
from ecdiff_tune.metrics.metric import Metric
from ecdiff_tune.objective import Scorer, Trial, Weights
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.base import Context
from ecdiff_tune.search.spaces import Stage1Space
from ecdiff_tune.study.loop import run
from ecdiff_tune.study.progress import Progress

from ...refusals import refused
from ..conftest import Calls

TUNED = ECDiffParams(3, 2, 0.3, 9)  # 3C2A1C2A1C3E
CONFIGS = [TUNED, ECDiffParams(3, 1, 0.7, 12), ECDiffParams.hybrid(7), ECDiffParams.edge_only()]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def evaluator(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, ledger: Ledger, tmp_path: Path
) -> Iterator[Evaluator]:
    """Over an empty ledger, in batches of two prompts and one, sharing what can be shared."""
    with StateStore(tmp_path / "states", 2**30) as store:
        yield Evaluator(pipe, prompts, made, ledger, batches=Batches(2), store=store, s_values=range(7, 13))


def measure(evaluator: Evaluator, params: ECDiffParams) -> tuple[Measurement, ...]:
    (found,) = evaluator.measure([evaluator.resolve(Candidate(params))], lambda _: None)
    return found


def ssims(measurements: Sequence[Measurement]) -> list[float]:
    assert all(one.ssim is not None for one in measurements)
    return [one.ssim for one in measurements if one.ssim is not None]


def stacked(made: Reference) -> Tensor:
    return torch.stack([one.cloud for one in made.prompts]).float()


def test_the_clouds_own_images(evaluator: Evaluator) -> None:
    # Not infinite: the reference keeps images in half precision.
    for one in measure(evaluator, ECDiffParams.cloud_only(12)):
        assert one.ssim == pytest.approx(1, abs=1e-4)
        assert one.psnr is not None
        assert one.psnr > 70
        assert one.seconds > 0


def test_the_edges_own_images(evaluator: Evaluator, made: Reference) -> None:
    edge = torch.stack([one.edge for one in made.prompts]).float()
    expected = ssim(edge, stacked(made)).tolist()
    assert ssims(measure(evaluator, ECDiffParams.edge_only())) == pytest.approx(expected, abs=1e-3)
    assert max(expected) < 0.95


@pytest.mark.parametrize("params", CONFIGS, ids=str)
def test_measurements_are_of_the_images(evaluator: Evaluator, made: Reference, params: ECDiffParams) -> None:
    images = evaluator.images(evaluator.resolve(Candidate(params)), range(3))
    found = measure(evaluator, params)
    assert ssims(found) == pytest.approx(ssim(images, stacked(made)).tolist(), abs=1e-5)
    assert [one.psnr for one in found] == pytest.approx(psnr(images, stacked(made)).tolist(), abs=1e-2)


def test_images_are_those_of_the_pipeline(
    evaluator: Evaluator, pipe: ECDiffPipeline, prompts: CalibrationSet
) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in prompts.seeds[1:]]
    latents = pipe(prompts.prompts[1:], generator=generators).latents
    expected = pipe.pair.family.decode(latents)
    found = evaluator.images(evaluator.resolve(Candidate(TUNED)), [1, 2])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_result_depends_on_every_parameter(evaluator: Evaluator) -> None:
    found = [
        ssims(measure(evaluator, params))
        for params in (
            TUNED,
            replace(TUNED, p=4),
            replace(TUNED, k=1),
            replace(TUNED, alpha=0.8),
            replace(TUNED, s=12),
        )
    ]
    assert len({tuple(round(value, 5) for value in one) for one in found}) == 5


# What may be shared.


SEVERAL = [Candidate(params) for params in CONFIGS] + [
    Candidate(replace(TUNED, alpha=0.9)),
    Candidate(TUNED, "reuse"),
    Candidate(TUNED, handoff_adapter="matched"),
    Candidate(replace(TUNED, residual=1.0)),
    Candidate(replace(TUNED, s=6, residual=0.5)),
    Candidate(replace(TUNED, s=6, edge_k=1, edge_first=1, edge_last=1, residual=0.5)),
    Candidate(ECDiffParams.interleaved([0, 1, 2, 7], [3, 4, 8, 11], 0.3, residual=1.0)),
]


@pytest.fixture(scope="module")
def one_by_one(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, tmp_path_factory: pytest.TempPathFactory
) -> dict[Candidate, list[float]]:
    """SSIMs of ``SEVERAL``, where nothing is shared."""
    with closing(Ledger(tmp_path_factory.mktemp("one_by_one") / "ledger.sqlite")) as other:
        whole = Evaluator(pipe, prompts, made, other, batches=Batches(2))
        return {one: ssims(whole.measure([whole.resolve(one)], lambda _: None)[0]) for one in SEVERAL}


@pytest.mark.parametrize("params", CONFIGS, ids=str)
def test_a_shared_warm_up_changes_nothing(
    evaluator: Evaluator, one_by_one: dict[Candidate, list[float]], params: ECDiffParams
) -> None:
    measure(evaluator, replace(params, k=3, alpha=0.1) if params.p else params)  # leaves its warm-up behind
    expected = one_by_one[Candidate(params)]
    assert ssims(measure(evaluator, params)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(
    one_by_one: dict[Candidate, list[float]],
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    made: Reference,
    ledger: Ledger,
    batch_size: int,
) -> None:
    found = measure(Evaluator(pipe, prompts, made, ledger, batches=Batches(batch_size)), TUNED)
    assert ssims(found) == pytest.approx(one_by_one[Candidate(TUNED)], abs=1e-5)


def test_what_trajectories_have_in_common_is_paid_once(evaluator: Evaluator, calls: Calls) -> None:
    """Calls a prompt of (cloud, edge) by 3C2A1C2A1C3E and its relatives."""

    def paid(*several: ECDiffParams) -> tuple[float, float]:
        before = dict(evaluator.calls)
        evaluator.measure([evaluator.resolve(Candidate(params)) for params in several], lambda _: None)
        cloud, edge = ((evaluator.calls[name] - before[name]) / 3 for name in ("cloud", "edge"))
        return cloud, edge

    assert paid(TUNED) == (5, 3)
    assert calls.both == (2 * 5, 2 * 3)  # two batches
    assert paid(replace(TUNED, alpha=0.5)) == (1, 3)  # from the first correction on
    assert paid(replace(TUNED, k=1)) == (3, 3)  # 3C1A1C1A1C1A1C3E, from the warm-up on
    assert paid(replace(TUNED, s=6)) == (0, 6)  # the edge's tail alone
    assert paid(replace(TUNED, s=12)) == (1, 0)  # from the handoff at 9 on
    assert paid(replace(TUNED, p=6)) == (7, 3)  # its own warm-up
    # Asked for together: for k = 3 one first window and first correction (3C3A1C), then an edge tail each of
    # s = 7, of (0.3, s = 11) and of (0.6, s = 11) after their second correction.
    together = [replace(TUNED, k=3, s=s, alpha=alpha) for s, alpha in ((7, 0.3), (11, 0.3), (11, 0.6))]
    calls.reset()
    assert paid(*together) == (3, 5 + 1 + 1)
    assert calls.cloud < 2 * 3  # the last batch, of one prompt, takes both alphas through the model at once


@pytest.mark.parametrize("first", [0, 5, 6])
def test_together_equals_one_by_one(
    evaluator: Evaluator, first: int, one_by_one: dict[Candidate, list[float]]
) -> None:
    several = SEVERAL[first:] + SEVERAL[:first]  # what is done first must not matter
    together = evaluator.measure([evaluator.resolve(one) for one in several], lambda _: None)
    for one, found in zip(several, together, strict=True):
        assert ssims(found) == pytest.approx(one_by_one[one], abs=1e-5)
    # The tiny pair needs no adapter.
    assert len({tuple(one) for one in one_by_one.values()}) >= len(several) - 1


@pytest.fixture(scope="module")
def of_estimators(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[Candidate, list[float]], int]:
    """SSIMs of configs of every estimator, where nothing is shared, and the cloud's calls for them."""
    several = [
        Candidate(replace(TUNED, alpha=alpha, s=s), name)
        for name in sorted(estimators.ESTIMATORS)
        for alpha, s in ((0.3, 9), (0.8, 9), (0.3, 12), (0.3, 6))
    ]
    with closing(Ledger(tmp_path_factory.mktemp("of_estimators") / "ledger.sqlite")) as other:
        whole = Evaluator(pipe, prompts, made, other, batches=Batches(3))
        found = whole.measure(list(map(whole.resolve, several)), lambda _: None)
    return dict(zip(several, map(ssims, found), strict=True)), whole.calls["cloud"]


@pytest.mark.parametrize("first", ["edge", "reuse"])
def test_sharing_changes_nothing_whatever_the_estimator_and_whoever_is_first(
    evaluator: Evaluator,
    of_estimators: tuple[dict[Candidate, list[float]], int],
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    made: Reference,
    tmp_path: Path,
    first: str,
) -> None:
    """One after the other, over states that others left behind: other alphas, other s, other estimators."""
    expected, cloud_calls = of_estimators
    for candidate in sorted(expected, key=lambda one: one.estimator != first):
        (found,) = evaluator.measure([evaluator.resolve(candidate)], lambda _: None)
        assert ssims(found) == pytest.approx(expected[candidate], abs=1e-5), candidate
    listed = [Candidate(ECDiffParams.scheduled((0, 1, 2, 5, 6, 9), 0.3, s), first) for s in (7, 10, 12)]
    with closing(Ledger(tmp_path / "third.sqlite")) as third:
        whole = Evaluator(pipe, prompts, made, third, batches=Batches(3))
        expected_listed = [
            ssims(one) for one in whole.measure(list(map(whole.resolve, listed)), lambda _: None)
        ]
    for candidate, wanted in zip(listed, expected_listed, strict=True):
        (found,) = evaluator.measure([evaluator.resolve(candidate)], lambda _: None)
        assert ssims(found) == pytest.approx(wanted, abs=1e-5), candidate
    assert evaluator.calls["cloud"] < cloud_calls
    # Of reuse alpha makes no difference, of gradient not before s = 9.
    assert len({tuple(round(value, 5) for value in one) for one in expected.values()}) == len(expected) - 1


def test_calls_of_the_estimator_edge(evaluator: Evaluator, calls: Calls) -> None:
    """2C1B2M1B2M1C3E and its relatives, calls a batch; there are two."""

    def paid(params: ECDiffParams) -> tuple[float, float]:
        calls.reset()
        evaluator.measure([evaluator.resolve(Candidate(params, "edge"))], lambda _: None)
        return calls.cloud / 2, calls.edge / 2

    candidates = [Candidate(replace(TUNED, s=s), "edge") for s in (9, 6)]
    assert evaluator.most_calls(candidates) == (5, 9 + 6)
    before = dict(evaluator.calls)
    assert paid(TUNED) == (5, 9)
    assert evaluator.calls["edge"] - before["edge"] == 3 * 9
    assert paid(replace(TUNED, alpha=0.8)) == (2, 9)  # from step 3 on: the cloud's warm-up knows no residual
    assert paid(replace(TUNED, s=6)) == (0, 6)
    assert paid(replace(TUNED, s=12)) == (1, 3)  # from step 9 on, and the edge asked at step 8


def test_states_that_do_not_fit_are_read_from_files(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    made: Reference,
    ledger: Ledger,
    tmp_path: Path,
    calls: Calls,
) -> None:
    with StateStore(tmp_path / "states", 0) as store:
        evaluator = Evaluator(pipe, prompts, made, ledger, batches=Batches(2), store=store, s_values=(9,))
        measure(evaluator, TUNED)
        assert any((tmp_path / "states").iterdir())
        calls.reset()
        found = measure(evaluator, replace(TUNED, alpha=0.5))
        assert calls.both == (2, 6)
        evaluator.forget(evaluator.resolve(Candidate(TUNED)))
        calls.reset()
        measure(evaluator, replace(TUNED, s=6))  # before alpha acts: still there
        assert calls.both == (0, 12)
    assert not (tmp_path / "states").exists()
    with closing(Ledger(tmp_path / "other.sqlite")) as other:
        whole = Evaluator(pipe, prompts, made, other, batches=Batches(2))
        assert ssims(found) == pytest.approx(ssims(measure(whole, replace(TUNED, alpha=0.5))), abs=1e-6)


def test_out_of_memory_halves_the_batch(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, ledger: Ledger, tmp_path: Path
) -> None:
    most, said = [4], list[str]()

    def allocate(_: object, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > most[0]:  # guidance doubles the batch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    hook = pipe.pair.cloud.register_forward_pre_hook(allocate)
    try:
        batches = Batches(3, said.append)
        found = measure(Evaluator(pipe, prompts, made, ledger, batches=batches), TUNED)
        assert said == ["out of memory with 3 prompts at a time: going on with 1"]
        most[0] = 1
        with refused(OutOfMemoryError, key="memory", got=re.compile("CUDA out of memory. Tried .*GiB$")):
            measure(Evaluator(pipe, prompts, made, ledger, batches=batches), replace(TUNED, alpha=0.7))
    finally:
        hook.remove()
    with closing(Ledger(tmp_path / "other.sqlite")) as other:
        whole = Evaluator(pipe, prompts, made, other, batches=Batches(3))
        assert ssims(found) == pytest.approx(ssims(measure(whole, TUNED)), abs=1e-5)


def test_timed_generations_run_whole(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, ledger: Ledger, calls: Calls
) -> None:
    timed = Evaluator(pipe, prompts, made, ledger, batches=Batches(1))
    for alpha in (0.3, 0.5):
        calls.reset()
        measure(timed, replace(TUNED, alpha=alpha))
        assert calls.both == (3 * 5, 3 * 3)


# What the ledger holds is not generated again.


def test_nothing_is_generated_twice(
    evaluator: Evaluator,
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    made: Reference,
    ledger: Ledger,
    calls: Calls,
) -> None:
    first = measure(evaluator, TUNED)
    assert calls.cloud > 0
    calls.reset()
    assert measure(evaluator, TUNED) == first
    assert measure(evaluator, replace(TUNED, s=8)) == first  # aligned: the same plan
    assert measure(Evaluator(pipe, prompts, made, ledger, batches=Batches(1)), TUNED) == first
    some = CalibrationSet(prompts.prompts[:2], prompts.seeds[:2])
    fewer = Evaluator(pipe, some, Reference(made.prompts[:2], some), ledger, batches=Batches(2))
    assert measure(fewer, TUNED) == first[:2]
    assert calls.both == (0, 0)


def test_alpha_that_cannot_matter_costs_nothing(evaluator: Evaluator, calls: Calls) -> None:
    once = replace(TUNED, s=6)  # 3C2A1C6E
    first = measure(evaluator, once)
    calls.reset()
    assert measure(evaluator, replace(once, alpha=0.9)) == first
    assert calls.both == (0, 0)


KNOWN = Measurement(0.125, 12.0, 1.0)


def test_goes_on_after_the_batches_that_are_there(
    evaluator: Evaluator, ledger: Ledger, prompts: CalibrationSet, calls: Calls
) -> None:
    key = evaluator.resolve(Candidate(TUNED)).key
    ledger.append(key, [(prompts.keys[0], KNOWN), (prompts.keys[1], KNOWN)])
    found = measure(evaluator, TUNED)
    assert calls.both == (5, 3)  # the last batch
    assert found[:2] == (KNOWN, KNOWN)
    assert found[2] != KNOWN
    assert ledger.read(key) == dict(zip(prompts.keys, found, strict=True))


def test_what_is_known_of_a_batch_stays(
    evaluator: Evaluator, ledger: Ledger, prompts: CalibrationSet
) -> None:
    key = evaluator.resolve(Candidate(TUNED)).key
    ledger.append(key, [(prompts.keys[1], KNOWN)])
    found = measure(evaluator, TUNED)
    assert found[1] == KNOWN
    assert found[0] != KNOWN
    assert measure(evaluator, TUNED) == found


def test_results_are_returned_and_not_read_back(
    evaluator: Evaluator, ledger: Ledger, prompts: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[ConfigKey] = []
    read = ledger.read

    def counted(key: ConfigKey, *_: object) -> dict[str, Measurement]:
        reads.append(key)
        return read(key)

    monkeypatch.setattr(ledger, "read", counted)
    configs = [evaluator.resolve(Candidate(one)) for one in (TUNED, replace(TUNED, alpha=0.5))]
    found = evaluator.measure(configs, lambda _: None)
    assert reads == [one.key for one in configs]  # before anything is generated
    assert [dict(zip(prompts.keys, some, strict=True)) for some in found] == [
        read(one.key) for one in configs
    ]


def test_a_metric_that_comes_later_changes_nothing_else(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, ledger: Ledger
) -> None:
    key = Evaluator(pipe, prompts, made, ledger, batches=Batches(2)).resolve(Candidate(TUNED)).key
    ledger.append(key, [(name, KNOWN) for name in prompts.keys])
    half = Metric("half", "half", lambda images, *_: torch.full((len(images),), 0.5))
    later = Evaluator(pipe, prompts, made, ledger, batches=Batches(2), extra=(half,))
    found = measure(later, TUNED)
    assert found == (replace(KNOWN, extra={"half": 0.5}),) * 3
    assert ledger.read(key) == dict(zip(prompts.keys, found, strict=True))


def test_a_batch_is_kept_as_soon_as_it_is_done(
    evaluator: Evaluator, ledger: Ledger, prompts: CalibrationSet
) -> None:
    key = evaluator.resolve(Candidate(TUNED)).key

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.measure([evaluator.resolve(Candidate(TUNED))], stop)
    assert set(ledger.read(key)) == set(prompts.keys[:2])


def test_progress_is_told(evaluator: Evaluator) -> None:
    for expected in ([2, 1], [3]):  # generated, then read
        ready: list[int] = []
        evaluator.measure([evaluator.resolve(Candidate(TUNED))], ready.append)
        assert ready == expected


# What is not finite.


def spoil(monkeypatch: pytest.MonkeyPatch, *, alpha: float, prompts: slice) -> None:
    """Make the noises of some prompts of every batch NaN where a config has that alpha."""
    gradient = estimators.ESTIMATORS["gradient"]

    def estimate(state: NoiseState, factor: Alpha) -> NoiseState:
        matters = state.scaled
        state = gradient.estimate(state, factor)
        if factor == alpha and matters:
            assert state.eps is not None
            eps = state.eps.clone()
            eps[prompts] = float("nan")
            state = replace(state, eps=eps)
        return state

    monkeypatch.setitem(estimators.ESTIMATORS, "gradient", replace(gradient, estimate=estimate))


def test_a_prompt_that_is_not_finite(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    expected = ssims(measure(evaluator, replace(TUNED, alpha=0.3)))
    spoil(monkeypatch, alpha=0.30001, prompts=slice(1, None))
    found = measure(evaluator, replace(TUNED, alpha=0.30001))
    assert (found[1].ssim, found[1].psnr) == (None, None)
    assert [found[0].ssim, found[2].ssim] == pytest.approx([expected[0], expected[2]], abs=1e-4)
    calls.reset()
    assert measure(evaluator, replace(TUNED, alpha=0.30001)) == found
    assert calls.both == (0, 0)


def test_an_image_that_is_not_finite(
    evaluator: Evaluator, pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half-precision decoders overflow on finite latents.
    decode = type(pipe.pair.family).decode
    monkeypatch.setattr(type(pipe.pair.family), "decode", lambda *given: decode(*given) * float("nan"))
    assert [one.ssim for one in measure(evaluator, TUNED)] == [None] * 3


@pytest.mark.parametrize("name", ["greedy", "exhaustive"])
def test_the_search_goes_on_past_an_infeasible_config(
    evaluator: Evaluator, latency: LatencyProfile, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    spoil(monkeypatch, alpha=0.5, prompts=slice(1))
    trials: list[Trial] = []
    context = Context(3, lambda _, quality: quality, lambda candidates: [0.5] * len(candidates))
    search = SEARCHES[name].make(Stage1Space(3, (1, 2), (0.3, 0.5, 0.7), 12), context)
    scorer = Scorer(latency, Weights(), earliest_s=7)
    winner = run(1, search, evaluator, scorer, Progress(), trials.append)
    by_alpha = {trial.candidate.params.alpha: trial.state for trial in trials}
    assert by_alpha[0.5] == "infeasible"
    assert by_alpha[0.7] == "complete"
    assert winner.candidate.params.alpha != 0.5
    assert winner.value == max(trial.value for trial in trials) > 0
