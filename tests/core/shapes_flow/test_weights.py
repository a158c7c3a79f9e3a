"""The committed weights of the flow-matching pair: loadable by diffusers as they are, small, and trained."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.models.find import find_configs
from ecdiff_core.shapes.grammar import scenes
from shapes_pair.read import read

LIMIT_BYTES = 15e6
STEPS = 8


@pytest.fixture(scope="module")
def pipe() -> ECDiffPipeline:
    names = (ModelRef(f"embedded:shapes_flow/{side}") for side in ("cloud", "edge"))
    sampling = Sampling(
        num_inference_steps=STEPS, scheduler="FlowMatchEulerDiscreteScheduler", guidance_scale=3.0
    )
    config = TunedConfig(PairSpec("shapes_flow", *names), ECDiffParams.hybrid(5), sampling)
    return ECDiffPipeline.from_config(config, device="cpu")


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_diffusers_loads_and_runs_the_folder_unchanged(side: str) -> None:
    folder = find_configs(ModelRef(f"embedded:shapes_flow/{side}"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "in the center a large red circle",
        height=64,
        width=64,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert image.size == (64, 64)


def test_folders_hold_safetensors_and_json_alone_and_stay_small() -> None:
    root = Path(find_configs(ModelRef("embedded:shapes_flow/cloud"))).parent
    files = [p for side in ("cloud", "edge") for p in (root / side).rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".safetensors", ".json"}
    assert sum(p.stat().st_size for p in files) <= LIMIT_BYTES


def test_the_cloud_draws_captions_that_it_never_saw(pipe: ECDiffPipeline) -> None:
    scene_list = list(itertools.islice(scenes(0, held_out=True), 4))
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    images = pipe([s.caption() for s in scene_list], generator=generators, mode="cloud").images
    right = [
        o.color_right
        for image, scene in zip(images, scene_list, strict=True)
        for o in read(np.asarray(image, np.float32) / 255, scene).objects
    ]
    assert sum(right) / len(right) >= 0.75
