"""Images of a placed plan in the place of the cloud's own: what is held against which, and what is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.evaluator import Evaluator
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.placed_images import PlacedImages, ReferencePlan
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.metrics.images import ssim

from ..conftest import Calls

PLAN = ReferencePlan((0, 1, 2, 5, 8), 0.5, "secant", 12, 0.25, full_runs=1)
TUNED = Candidate(ECDiffParams(3, 2, 0.3, 9))


def make(placed: PlacedImages, pipe: ECDiffPipeline, prompts: CalibrationSet) -> Counter[str]:
    calls: Counter[str] = Counter()
    batches = Batches(2)
    generations = Generations(pipe, prompts, batches, None, ())
    placed.make(pipe, prompts, generations, batches, lambda _: None, calls)
    return calls


@pytest.fixture
def placed(pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path) -> PlacedImages:
    found = PlacedImages(PLAN, tmp_path)
    assert make(found, pipe, prompts) == Counter(cloud=3 * len(PLAN.steps), decode=3)
    return found


@pytest.fixture
def mixed(made: Reference, placed: PlacedImages) -> Reference:
    """The cloud's own run on the first prompt alone."""
    return replace(made, prompts=made.prompts[:1], placed=placed)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def test_images_are_those_of_the_plan(
    pipe: ECDiffPipeline, prompts: CalibrationSet, placed: PlacedImages
) -> None:
    params = ECDiffParams.scheduled(PLAN.steps, PLAN.alpha, 12)
    config = replace(pipe.config, params=params, sampling=replace(pipe.config.sampling, estimator="secant"))
    own = ECDiffPipeline(pipe.pair, config)
    for prompt, seed, key in zip(prompts.prompts, prompts.seeds, prompts.keys, strict=True):
        latents = own(prompt, generator=torch.Generator().manual_seed(seed)).latents
        expected = pipe.pair.family.decode(latents)[0]
        torch.testing.assert_close(placed.image(key).float(), expected, atol=1e-3, rtol=0)


def test_made_once(pipe: ECDiffPipeline, prompts: CalibrationSet, placed: PlacedImages, calls: Calls) -> None:
    assert make(placed, pipe, prompts) == Counter()
    placed.path_of(prompts.keys[1]).unlink()
    assert placed.missing(prompts) == [1]
    assert make(placed, pipe, prompts) == Counter(cloud=len(PLAN.steps), decode=1)
    assert calls.both == (len(PLAN.steps), 0)
    other = PlacedImages(replace(PLAN, alpha=0.6), placed.folder)
    assert other.missing(prompts) == [0, 1, 2]


def test_a_prompt_with_an_image_of_no_use(prompts: CalibrationSet, placed: PlacedImages) -> None:
    assert placed.faulty_rows(prompts) == {}
    path = placed.path_of(prompts.keys[2])
    save_file(load_file(path) | {"faults": torch.tensor([2])}, path)
    assert placed.faulty_rows(prompts) == {2: ("cloud", 2)}


def test_each_prompt_is_held_against_its_image(
    pipe: ECDiffPipeline, prompts: CalibrationSet, mixed: Reference, ledger: Ledger
) -> None:
    evaluator = Evaluator(pipe, prompts, mixed, ledger, batches=Batches(2))
    config = evaluator.resolve(TUNED)
    (found,) = evaluator.measure([config], lambda _: None)
    images = evaluator.images(config, range(3))
    assert mixed.placed is not None
    near = torch.stack([mixed.placed.image(key) for key in prompts.keys]).float()
    own = ssim(images[:1], mixed.prompts[0].cloud.float()[None]).tolist()
    placed = ssim(images, near).tolist()
    assert [one.reference for one in found] == ["", PLAN.name, PLAN.name]
    assert [one.ssim for one in found] == pytest.approx([*own, *placed[1:]], abs=1e-5)
    assert abs(own[0] - placed[0]) > 1e-4
    # The prompt with both images has a row against each, of one generation.
    assert ledger.read(config.key).keys() == {prompts.keys[0]}
    rows = ledger.read(config.key, PLAN.name)
    assert [rows[key].ssim for key in prompts.keys] == pytest.approx(placed, abs=1e-5)


def test_what_was_measured_against_another_image_is_measured_again(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, mixed: Reference, ledger: Ledger
) -> None:
    full, near = (Evaluator(pipe, prompts, one, ledger, batches=Batches(3)) for one in (made, mixed))
    config = full.resolve(TUNED)
    (first,) = full.measure([config], lambda _: None)
    assert near.missing([config]) == 2
    (second,) = near.measure([config], lambda _: None)
    assert near.missing([config]) == full.missing([config]) == 0
    assert full.measure([config], lambda _: None) == [first]
    assert second[0] == first[0]
    assert [one.reference for one in second] == ["", PLAN.name, PLAN.name]


def test_a_plan_comes_back_from_its_values() -> None:
    tree = {**vars(PLAN), "steps": list(PLAN.steps)}  # as JSON has it
    assert ReferencePlan.of(tree) == PLAN
    assert PLAN.name == "steps 0,1,2,5,8 of 12 secant 0.5"
    assert PLAN.candidate.resolve(12, "aligned").plan.cloud_calls == 5
