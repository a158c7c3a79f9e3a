"""Sizes: what the cloud's config says where none is given, and what either model of a pair cannot make."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from ecdiff_core import (
    ECDiffParams,
    ECDiffPipeline,
    ModelRef,
    PairSpec,
    Sampling,
    TunedConfig,
    apply_ecdiff,
    remove_ecdiff,
)
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.models.compatibility import compare
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.families.family import Size
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.sampling.schedulers import build_scheduler

from ...refusals import refused

STEPS = 4
PROMPT = "a red circle"
FLOW = "FlowMatchEulerDiscreteScheduler"


def config_of(folder: Path, scheduler: str = "DDIMScheduler", **sampling: Any) -> TunedConfig:
    """A config whose plan is ``2C2E``."""
    return TunedConfig(
        pair=PairSpec("small", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge"))),
        params=ECDiffParams.hybrid(2),
        sampling=Sampling(STEPS, scheduler, guidance_scale=3.0, **sampling),
    )


def load(config: TunedConfig) -> Pair:
    return load_pair(config.pair, device=torch.device("cpu"), dtype=torch.float32)


def with_sample_size(folder: Path, to: Path, value: object) -> Path:
    """A copy of a pair with that ``sample_size`` of the cloud's U-Net."""
    pair = Path(shutil.copytree(folder, to / "pair"))
    path = pair / "cloud" / "unet" / "config.json"
    tree = {**json.loads(path.read_text(encoding="utf-8")), "sample_size": value}
    path.write_text(json.dumps(tree), encoding="utf-8")
    return pair


def test_a_trained_size_that_is_not_square_equals_diffusers(tiny_pair: Path, tmp_path: Path) -> None:
    pair = with_sample_size(tiny_pair, tmp_path, [8, 12])
    pipe = ECDiffPipeline.from_config(config_of(pair), device="cpu")
    assert pipe.size == Size(32, 48)
    ours = pipe(PROMPT, generator=torch.Generator().manual_seed(0), mode="cloud")
    own = StableDiffusionPipeline.from_pretrained(pair / "cloud")
    own.scheduler = build_scheduler("DDIMScheduler", own.scheduler)
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = own(PROMPT, generator=torch.Generator().manual_seed(0), **settings).images
    assert theirs.shape == (1, 4, 8, 12)
    torch.testing.assert_close(ours.latents, theirs, atol=1e-5, rtol=1e-5)
    assert ours.images[0].size == (48, 32)


def test_sdxl_has_such_sizes_too(sdxl_pair: Path, tmp_path: Path) -> None:
    pair = with_sample_size(sdxl_pair, tmp_path, [12, 8])
    pipe = ECDiffPipeline.from_config(config_of(pair, width=40), device="cpu")
    assert pipe.size == Size(48, 40)  # the height is left open


def test_a_model_that_says_no_size(tiny_pair: Path, tmp_path: Path) -> None:
    pair = with_sample_size(tiny_pair, tmp_path, None)
    loaded = load(config_of(pair))
    with refused(ParamsError, key="height and width", line="sample_size"):
        ECDiffPipeline(loaded, config_of(pair, height=32))
    assert ECDiffPipeline(loaded, config_of(pair, height=32, width=40)).size == Size(32, 40)
    with refused(ParamsError, key="height and width", expected="to be multiples of 4 pixels", advice=""):
        ECDiffPipeline(loaded, config_of(pair, height=34, width=32))


@pytest.fixture
def narrow(sd3_pair_without_t5: Path) -> Pair:
    """An SD3 pair whose edge has position embeddings for 24x24 pixels; the cloud's reach 128, it makes 32."""
    pair = load(config_of(sd3_pair_without_t5, FLOW))
    pair.edge.register_to_config(pos_embed_max_size=3)
    return pair


def test_a_size_beyond_the_edges_position_embeddings(narrow: Pair, sd3_pair_without_t5: Path) -> None:
    config = config_of(sd3_pair_without_t5, FLOW)
    expected = "of at most 24 pixels, for which the edge model has position embeddings"
    with refused(ParamsError, key="height and width", got={"height": 32, "width": 32}, expected=expected):
        ECDiffPipeline(narrow, config)
    assert ECDiffPipeline(narrow, replace(config, sampling=replace(config.sampling, height=24, width=24)))
    with refused(ParamsError, expected=expected.replace("24", "128").replace("edge", "cloud")):
        ECDiffPipeline(narrow, config_of(sd3_pair_without_t5, FLOW, height=136))
    rows = compare(
        sd3_pair_without_t5 / "cloud", sd3_pair_without_t5 / "edge", FAMILIES["StableDiffusion3Pipeline"]
    )
    assert [row.cloud for row in rows if row.name == "position embeddings"] == ["16"]


def test_the_hook_refuses_it_before_any_call(narrow: Pair, sd3_pair_without_t5: Path) -> None:
    own: Any = narrow.family.pipeline
    apply_ecdiff(own, config_of(sd3_pair_without_t5, FLOW), edge=narrow.edge)
    call = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    with refused(PairError, key="latents", got=(8, 8), expected="at most 6"):
        own(PROMPT, **call)
    assert own.ecdiff.calls == {"cloud": 0, "edge": 0}
    remove_ecdiff(own)


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_learned_positions_are_of_one_resolution(
    tiny_videos: Path, video_config: TunedConfig, side: str
) -> None:
    pair = load(video_config)
    getattr(pair, side).register_to_config(use_learned_positional_embeddings=True)
    assert ECDiffPipeline(pair, video_config).size == Size(32, 32, 9)
    wider = replace(video_config, sampling=replace(video_config.sampling, height=32, width=48))
    expected = "of 32x32 pixels, for which alone a model of the pair has positions"
    with refused(ParamsError, got={"height": 32, "width": 48}, expected=expected):
        ECDiffPipeline(pair, wider)
