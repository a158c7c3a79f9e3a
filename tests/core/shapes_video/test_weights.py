"""The committed weights of the video pair: loadable by diffusers as they are, small, and trained."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.models.find import find_configs
from ecdiff_core.shapes_video.grammar import scenes
from shapes_video.read import read

LIMIT_BYTES = 24e6
STEPS = 8


def sampling(handoff_adapter: str) -> Sampling:
    return Sampling(
        num_inference_steps=STEPS,
        scheduler="CogVideoXDDIMScheduler",
        guidance_scale=3.0,
        handoff_adapter=handoff_adapter,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def pipe() -> ECDiffPipeline:
    names = (ModelRef(f"embedded:shapes_video/{side}") for side in ("cloud", "edge"))
    config = TunedConfig(PairSpec("shapes_video", *names), ECDiffParams.hybrid(5), sampling("matched"))
    return ECDiffPipeline.from_config(config, device="cpu")


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_diffusers_loads_and_runs_the_folder_unchanged(side: str) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(find_configs(ModelRef(f"embedded:shapes_video/{side}")))
    pipeline.set_progress_bar_config(disable=True)
    sizes = {"height": 64, "width": 64, "num_frames": 9, "max_sequence_length": 24}
    (frames,) = pipeline(
        "a red circle growing", **sizes, num_inference_steps=1, generator=torch.Generator().manual_seed(0)
    ).frames
    assert (len(frames), frames[0].size) == (9, (64, 64))


def test_folders_hold_safetensors_and_json_alone_and_stay_small() -> None:
    root = Path(find_configs(ModelRef("embedded:shapes_video/cloud"))).parent
    files = [p for side in ("cloud", "edge") for p in (root / side).rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".safetensors", ".json"}
    assert sum(p.stat().st_size for p in files) <= LIMIT_BYTES


def test_the_models_differ_as_cogvideox_5b_and_2b_do(pipe: ECDiffPipeline) -> None:
    assert {row.name for row in pipe.pair.convertible} == {"latent scaling", "noise schedule"}
    assert pipe.pair.cloud.config.use_rotary_positional_embeddings
    assert not pipe.pair.edge.config.use_rotary_positional_embeddings
    ours, theirs = pipe.pair.cloud_schedule, pipe.pair.edge_schedule
    assert ours is not None
    assert theirs is not None
    assert ours.scaling_factor / theirs.scaling_factor == pytest.approx(0.7 / 1.15258, rel=1e-4)
    assert ours.prediction_type == theirs.prediction_type == "v_prediction"


def test_the_cloud_draws_captions_that_it_never_saw(pipe: ECDiffPipeline) -> None:
    scene_list = list(itertools.islice(scenes(0, held_out=True), 4))
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    clips = pipe([s.caption() for s in scene_list], generator=generators, mode="cloud").images
    right = [
        o.color_right
        for clip, scene in zip(clips, scene_list, strict=True)
        for o in read(np.stack([np.asarray(frame, np.float32) / 255 for frame in clip]), scene).objects
    ]
    assert sum(right) / len(right) >= 0.75
