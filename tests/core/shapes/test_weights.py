"""The committed weights: loadable by diffusers as they are, small, and as able as the model card says."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.models.find import find_configs
from ecdiff_core.shapes.grammar import Scene, scenes
from shapes_pair.read import read

LIMIT_BYTES = 32e6
STEPS = 10


@pytest.fixture(scope="module")
def pipe() -> ECDiffPipeline:
    pair = PairSpec("shapes", ModelRef("embedded:shapes/cloud"), ModelRef("embedded:shapes/edge"))
    sampling = Sampling(num_inference_steps=STEPS, guidance_scale=3.0)
    return ECDiffPipeline.from_config(TunedConfig(pair, ECDiffParams(3, 2, 0.3, 6), sampling), device="cpu")


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    return list(itertools.islice(scenes(0, held_out=True), 12))


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_diffusers_loads_and_runs_the_folder_unchanged(side: str) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(find_configs(ModelRef(f"embedded:shapes/{side}")))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipeline("a large red circle in the center", num_inference_steps=2, generator=generator).images[0]
    assert image.size == (64, 64)


def test_folders_hold_safetensors_and_json_alone_and_stay_small() -> None:
    root = Path(find_configs(ModelRef("embedded:shapes/cloud"))).parent
    files = [p for side in ("cloud", "edge") for p in (root / side).rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".safetensors", ".json"}
    assert sum(p.stat().st_size for p in files) <= LIMIT_BYTES


def _share_of_right_objects(pipe: ECDiffPipeline, held_out: list[Scene], mode: str) -> float:
    generators = [torch.Generator().manual_seed(i) for i in range(len(held_out))]
    images = pipe([s.caption() for s in held_out], generator=generators, mode=mode).images  # type: ignore[arg-type]
    right: list[bool] = []
    for image, scene in zip(images, held_out, strict=True):
        right += [o.color_right for o in read(np.asarray(image, np.float32) / 255, scene).objects]
    return sum(right) / len(right)


def test_the_cloud_draws_captions_that_it_never_saw(pipe: ECDiffPipeline, held_out: list[Scene]) -> None:
    assert _share_of_right_objects(pipe, held_out, "cloud") >= 0.75


def test_ecdiff_keeps_what_the_cloud_draws(pipe: ECDiffPipeline, held_out: list[Scene]) -> None:
    assert _share_of_right_objects(pipe, held_out, "ecdiff") >= 0.75


def test_cloud_and_edge_share_all_but_the_unet(pipe: ECDiffPipeline) -> None:
    cloud, edge = (find_configs(ModelRef(f"embedded:shapes/{side}")) for side in ("cloud", "edge"))
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (cloud / part).read_bytes() == (edge / part).read_bytes()
