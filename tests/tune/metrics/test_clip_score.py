"""The CLIP score on a very small CLIP model, against what torchmetrics and transformers make of the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecdiff_tune.metrics.clip_score import CLIPScore
from ecdiff_tune.metrics.images import MetricError

from ...refusals import refused
from .. import small_clip

PROMPTS = ["a large red circle", "two small blue stars", "a green ring on a dark background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_clip.save(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def score(folder: Path) -> CLIPScore:
    return CLIPScore(folder)


def levels(count: int, side: int = small_clip.SIDE) -> Tensor:
    """Images of whole levels of 255, of the model's own size: nothing is resized or rounded."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator) / 255


def by_hand(folder: Path, images: Tensor, prompts: list[str]) -> Tensor:
    """With the model alone: CLIP's own normalisation, the tokenizer, the cosine."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokens = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    found = model(
        pixel_values=(images - mean) / std,
        **tokens(prompts, padding=True, return_tensors="pt"),
    )
    return 100 * (found.image_embeds * found.text_embeds).sum(dim=1).detach()


def test_it_is_the_cosine(folder: Path, score: CLIPScore) -> None:
    found = score(levels(3), PROMPTS)
    torch.testing.assert_close(found, by_hand(folder, levels(3), PROMPTS), atol=1e-3, rtol=1e-4)
    assert found.std() > 0.1


def test_prompt_and_image_both_matter(score: CLIPScore) -> None:
    images = levels(2)
    assert score(images, PROMPTS[:2])[0] != score(images, PROMPTS[1:])[0]
    assert score(images, PROMPTS[:2])[0] != score(images.flip(0), PROMPTS[:2])[0]


def test_a_videos_is_the_mean_of_its_frames(score: CLIPScore) -> None:
    frames = levels(6)
    alone = score(frames, [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3).unflatten(0, (2, 3)).mean(dim=1)
    torch.testing.assert_close(score(frames.unflatten(0, (2, 3)), PROMPTS[:2]), alone)


def test_other_sizes_are_resized_and_cropped(score: CLIPScore) -> None:
    wide = torch.zeros(1, 3, 32, 64)
    wide[..., :12] = 1  # outside the crop of the middle
    torch.testing.assert_close(score(wide, PROMPTS[:1]), score(torch.zeros(1, 3, 16, 16), PROMPTS[:1]))


def test_long_prompts_are_cut(score: CLIPScore) -> None:
    long = "a large red circle and " * 60
    torch.testing.assert_close(score(levels(1), [long]), score(levels(1), [long + "two blue stars"]))


def test_a_prompt_a_image(score: CLIPScore) -> None:
    with pytest.raises(ValueError, match=r"Expected 3 images .*, got \(2, 3, 16, 16\)"):
        score(levels(2), PROMPTS)


@pytest.mark.parametrize("content", [None, "[]"])
def test_a_folder_without_a_model(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with refused(MetricError, key="metrics.clip", got=str(tmp_path), expected=["config.json"]):
        CLIPScore(tmp_path)


def test_another_kind_of_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_text_model"}))
    with refused(MetricError, key="metrics.clip", got="clip_text_model", expected="clip"):
        CLIPScore(tmp_path)


def test_weights_that_are_not_whole(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with refused(MetricError, key="metrics.clip", expected="visual_projection.weight"):
        CLIPScore(copy)


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
def test_files_that_are_missing(folder: Path, tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / file).unlink()
    with refused(MetricError, key="metrics.clip", got=str(copy)):
        CLIPScore(copy)
