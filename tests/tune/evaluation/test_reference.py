"""The reference run: images, noise profile, Gram matrix, p off the profile, and the files that keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecdiff_core.errors import NonFiniteLatentsError
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import reference_files, reference_runs
from ecdiff_tune.evaluation.compared import compared
from ecdiff_tune.evaluation.image_faults import FAULTS, UnusableReferenceError, describe, fault
from ecdiff_tune.evaluation.reference import PromptReference, Reference, auto_p, falls
from ecdiff_tune.evaluation.reference_files import DamagedReferenceError

from ...refusals import refused
from ..conftest import Calls

STEPS = 12
TENSORS = ("cloud", "edge", "noise_change", "gram", "seconds")


def make(
    pipe: ECDiffPipeline, prompts: CalibrationSet, folder: Path, batch_size: int = 2
) -> tuple[Reference, list[int]]:
    """The reference, and the numbers of prompts that were reported ready."""
    ready: list[int] = []
    made = reference_runs.make(pipe, prompts, folder, batches=Batches(batch_size), on_prompts=ready.append)
    return made, ready


def same(one: PromptReference, other: PromptReference) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


def alone(pipe: ECDiffPipeline, prompt: str, seed: int, mode: str) -> tuple[Tensor, Tensor]:
    """Image and guided noises, shape (T, elements), of an ordinary call of the pipeline."""
    noises: list[Tensor] = []
    output = pipe(
        prompt,
        generator=torch.Generator().manual_seed(seed),
        mode=mode,  # type: ignore[arg-type]
        on_step=lambda _step, _action, eps: noises.append(eps.flatten()),
    )
    return pipe.pair.family.decode(output.latents)[0], torch.stack(noises).double()


def test_images_are_those_of_the_pipeline(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference
) -> None:
    assert len(made.prompts) == len(prompts)
    for one, prompt, seed in zip(made.prompts, prompts.prompts, prompts.seeds, strict=True):
        for found, mode in ((one.cloud, "cloud"), (one.edge, "edge")):
            expected, _ = alone(pipe, prompt, seed, mode)
            assert found.dtype == torch.float16
            assert found.shape == (3, 32, 32)
            torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=0)
        assert (one.cloud.float() - one.edge.float()).abs().max() > 0.01


def test_the_gram_matrix_is_that_of_the_clouds_noises(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference
) -> None:
    for one, prompt, seed in zip(made.prompts, prompts.prompts, prompts.seeds, strict=True):
        _, noises = alone(pipe, prompt, seed, "cloud")
        assert one.gram.shape == (STEPS, STEPS)
        assert one.gram.dtype == torch.float64
        torch.testing.assert_close(one.gram, one.gram.T, rtol=1e-12, atol=0)
        torch.testing.assert_close(one.gram.diagonal(), noises.square().sum(dim=1), rtol=1e-4, atol=0)
        torch.testing.assert_close(one.gram, noises @ noises.T, rtol=1e-4, atol=1e-3)


def test_the_noise_profile_is_figure_3(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference
) -> None:
    changes = []
    for prompt, seed in zip(prompts.prompts, prompts.seeds, strict=True):
        noises = alone(pipe, prompt, seed, "cloud")[1].numpy()
        changes.append([np.abs(noises[i] - noises[i - 1]).mean() for i in range(1, STEPS)])
    np.testing.assert_allclose(made.noise_change, changes, rtol=1e-4)
    profile = made.noise_profile()
    assert list(profile.columns) == ["step", "mean", "variance"]
    assert profile["step"].tolist() == list(range(1, STEPS))
    np.testing.assert_allclose(profile["mean"], np.mean(changes, axis=0), rtol=1e-4)
    np.testing.assert_allclose(profile["variance"], np.var(changes, axis=0), rtol=1e-2)


def test_seconds_are_the_median_prompts(made: Reference) -> None:
    cloud, edge = made.seconds()
    assert cloud == sorted(one.seconds[0].item() for one in made.prompts)[1]
    assert edge == sorted(one.seconds[1].item() for one in made.prompts)[1]
    assert 0 < cloud < 60


def test_the_batch_size_changes_nothing_that_matters(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, tmp_path: Path
) -> None:
    other, _ = make(pipe, prompts, tmp_path, batch_size=3)
    for one, two in zip(made.prompts, other.prompts, strict=True):
        torch.testing.assert_close(one.cloud, two.cloud, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.gram, two.gram, rtol=1e-4, atol=1e-3)


# Kept in files.


def test_made_once(pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls) -> None:
    first, ready = make(pipe, prompts, tmp_path)
    assert calls.both == (2 * STEPS, 2 * STEPS)  # two batches
    assert ready == [0, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{key}.safetensors" for key in prompts.keys
    )

    calls.reset()
    again, ready = make(pipe, prompts, tmp_path)
    assert calls.both == (0, 0)
    assert ready == [3]
    assert all(map(same, first.prompts, again.prompts))


def test_only_what_is_missing_is_made(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, calls: Calls
) -> None:
    first, _ = make(pipe, prompts, tmp_path, batch_size=1)
    lost = tmp_path / f"{prompts.keys[1]}.safetensors"
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert reference_files.missing(prompts, tmp_path) == [1]

    calls.reset()
    again, _ = make(pipe, prompts, tmp_path, batch_size=1)
    assert calls.both == (STEPS, STEPS)
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    torch.testing.assert_close(again.prompts[1].cloud, first.prompts[1].cloud)


def test_another_set_uses_what_is_there(
    pipe: ECDiffPipeline, prompts: CalibrationSet, made: Reference, reference_folder: Path, calls: Calls
) -> None:
    some = CalibrationSet(prompts.prompts[::-2], prompts.seeds[::-2])
    again, _ = make(pipe, some, reference_folder)
    assert calls.both == (0, 0)
    assert all(map(same, again.prompts, made.prompts[::-2]))


@pytest.mark.parametrize("content", [b"", b"not safetensors", None], ids=["empty", "text", "cut short"])
def test_a_damaged_file_is_named(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    reference_folder: Path,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    for key in prompts.keys:
        whole = (reference_folder / f"{key}.safetensors").read_bytes()
        (tmp_path / f"{key}.safetensors").write_bytes(whole)
    broken = tmp_path / f"{prompts.keys[2]}.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100] if content is None else content)
    with refused(DamagedReferenceError, key=broken):
        make(pipe, prompts, tmp_path)

    broken.unlink()
    make(pipe, prompts, tmp_path)


@pytest.mark.parametrize("part", ["cloud", "edge", "decoder"])
def test_a_model_that_leaves_the_finite_numbers(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, part: str
) -> None:
    def spoil(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor]) -> object:
        return output * float("nan") if isinstance(output, Tensor) else (output[0] * float("nan"),)

    module = pipe.pair.family.pipeline.vae.decoder if part == "decoder" else getattr(pipe.pair, part)
    hook = module.register_forward_hook(spoil)
    side = "cloud" if part == "decoder" else part
    with refused(NonFiniteLatentsError, key=side, got="float32"):
        make(pipe, prompts, tmp_path)
    hook.remove()
    assert list(tmp_path.iterdir()) == []


class Blackened:
    """A decoder whose images of some turns are black: in the order of decoded rows, from 0."""

    def __init__(self, turns: set[int] | None = None) -> None:
        self.turns, self.seen = turns, 0

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        rows = range(self.seen, self.seen + len(output))
        self.seen += len(output)
        black = [self.turns is None or row in self.turns for row in rows]
        return torch.where(torch.tensor(black)[:, None, None, None], torch.full_like(output, -1), output)


@pytest.fixture
def blacken(pipe: ECDiffPipeline) -> Iterator[Callable[[set[int] | None], None]]:
    """Make the decoder black in these turns, or in all."""
    hooks = []
    decoder = pipe.pair.family.pipeline.vae.decoder
    yield lambda turns: hooks.append(decoder.register_forward_hook(Blackened(turns)))
    for hook in hooks:
        hook.remove()


def test_black_images_are_refused(
    pipe: ECDiffPipeline, prompts: CalibrationSet, tmp_path: Path, blacken: Callable[[set[int] | None], None]
) -> None:
    blacken(None)
    got = {"prompt": "a red circle", "image": "all black", "prompts": 2}
    with refused(UnusableReferenceError, key="cloud", got=got):
        make(pipe, prompts, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_with_a_black_image_is_left_out(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    made: Reference,
    tmp_path: Path,
    calls: Calls,
    blacken: Callable[[set[int] | None], None],
) -> None:
    blacken({3})  # of a batch of two: cloud, cloud, edge, edge
    again = {"batches": Batches(2), "on_prompts": lambda _: None, "at_most": 1}
    found = reference_runs.make(pipe, prompts, tmp_path, **again)  # type: ignore[arg-type]
    kept = reference_files.usable(prompts, tmp_path)
    assert kept == CalibrationSet((prompts.prompts[0], prompts.prompts[2]), (5, 7))
    assert len(found.prompts) == 2
    for one, other in zip(found.prompts, made.prompts[::2], strict=True):
        torch.testing.assert_close(one.cloud, other.cloud)
    faulty = reference_files.faulty_rows(prompts, tmp_path)
    assert describe(faulty, prompts) == [
        "left out, for the edge model's own image is all black: two blue stars"
    ]

    calls.reset()  # what is of no use is known, not made again
    assert len(reference_runs.make(pipe, prompts, tmp_path, **again).prompts) == 2  # type: ignore[arg-type]
    assert calls.both == (0, 0)
    got = {"prompt": "two blue stars", "image": "all black", "prompts": 1}
    with refused(UnusableReferenceError, key="edge", got=got):
        reference_runs.make(pipe, prompts, tmp_path, **again | {"at_most": 0})  # type: ignore[arg-type]
    assert len(make(pipe, prompts, tmp_path)[0].prompts) == 2  # a tenth, at least one


def test_black_images_of_older_files_are_seen(
    prompts: CalibrationSet, made: Reference, reference_folder: Path, tmp_path: Path
) -> None:
    for i, key in enumerate(prompts.keys):
        tensors = load_file(reference_folder / f"{key}.safetensors")
        assert tensors.pop("faults").tolist() == [0, 0]
        if i == 2:
            tensors["cloud"] = torch.zeros_like(tensors["cloud"])
        save_file(tensors, tmp_path / f"{key}.safetensors")
    assert reference_files.faulty_rows(prompts, tmp_path) == {2: ("cloud", 2)}


PATTERN = torch.linspace(0.2, 0.8, 192).reshape(3, 8, 8)
DOT = torch.zeros(3, 8, 8)
DOT[:, 4, 5] = 1.0


@pytest.mark.parametrize(
    ("image", "name"),
    [
        pytest.param(PATTERN, "", id="an image"),
        pytest.param(torch.where(PATTERN > 0.25, PATTERN, float("inf")), "not finite", id="inf"),
        pytest.param(torch.full((3, 8, 8), 1 / 255), "all black", id="black but for rounding"),
        pytest.param(
            torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 8, 8), "of one colour", id="blue"
        ),
        pytest.param((PATTERN > 0.5).float(), "saturated: nearly every value is 0 or 1", id="saturated"),
        pytest.param((PATTERN[:1] > 0.3).float().expand(3, 8, 8), "", id="black and white"),
        pytest.param(DOT * 0.02, "all black", id="black but for a pixel"),
        pytest.param(0.5 + DOT / 4, "of one colour", id="grey but for a pixel"),
        pytest.param(torch.stack([PATTERN, *[torch.zeros(3, 8, 8)] * 8]), "all black", id="a frame of nine"),
        pytest.param(PATTERN[:, :1, :1].expand(3, 8, 8).clone() + torch.eye(8) * 0.1, "", id="faint"),
        pytest.param(torch.stack([torch.zeros(3, 8, 8), PATTERN]), "", id="a video that begins black"),
        pytest.param(
            torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)]),
            "of one colour",
            id="a grey video",
        ),
        pytest.param(
            torch.stack([PATTERN, PATTERN * float("nan")]), "not finite", id="a video with a frame of NaN"
        ),
    ],
)
def test_faults_of_images(image: Tensor, name: str) -> None:
    assert FAULTS[fault(image)] == name
    assert FAULTS[fault(image.half())] == name


def test_nothing_is_compared_with_a_black_image() -> None:
    same = torch.zeros(1, 3, 16, 16)
    (found,) = compared(torch.ones(1, 4, 2, 2), same, same, ["a"], 0.1)
    assert (found.ssim, found.psnr) == (None, None)  # not 1.0 and infinity


# p off the profile.

FLAT = [1.0] * 30


@pytest.mark.parametrize(
    ("profile", "p"),
    [
        # Threshold 1 + 0.25 * (11 - 1) = 3.5: first reached at step 4.
        pytest.param([11, 6, 4, 3.5, 2, *FLAT], 4, id="falls and is flat"),
        pytest.param([11, 6, 4, 3.51, 3.4, 1.9, *FLAT], 5, id="a little above the threshold"),
        pytest.param([11, 6, 4, 3.5, 2, *FLAT, 20, 40], 4, id="rises in the last steps"),
        pytest.param(FLAT, 2, id="flat: p is at least 2"),
        pytest.param([0.5, 0.7, *FLAT], 2, id="rising"),
        pytest.param([11, 1.5, *FLAT], 2, id="falls at once"),
        pytest.param([11, 1.5, 8, *FLAT], 2, id="the first step counts"),
        pytest.param([3, 2, 1], 2, id="too few steps to tell"),
        pytest.param([1.0], 2, id="one difference"),
    ],
)
def test_p_off_the_profile(profile: list[float], p: int) -> None:
    assert auto_p(np.asarray([profile]), at_most=30) == p


def test_whether_there_is_a_fall_to_read_p_off() -> None:
    assert falls(np.asarray([[11, 1.5, *FLAT]]))
    assert not falls(np.asarray([[1, 1, *FLAT, 3]]))
    assert not falls(np.asarray([[0.5, 1, *FLAT]]))
    assert not falls(np.empty((1, 0)))


def test_p_follows_the_mean_over_prompts() -> None:
    early, late = [11, 1, 1, 1, 1, *FLAT], [11, 11, 11, 11, 1, *FLAT]
    assert auto_p(np.asarray([early]), 30) == 2
    assert auto_p(np.asarray([late]), 30) == 5
    assert auto_p(np.asarray([early, late]), 30) == 5


def test_p_is_at_most_the_smallest_s() -> None:
    falling = np.linspace(100, 1, 40)[None]
    assert auto_p(falling, at_most=30) > 10
    assert auto_p(falling, at_most=10) == 10
    assert auto_p(falling, at_most=1) == 2
