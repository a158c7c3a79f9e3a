"""diffusers' caches in a very small CogVideoX, and DeepCache in a U-Net where it is installed."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.experiments.caches import CACHES, cached, why_not

from ..studies import Command

STEPS = 16
"""Enough for every cache to have left out something."""
IN_TRANSFORMERS = [name for name, cache in CACHES.items() if cache.config is not None]


@pytest.fixture(scope="module")
def videos(video_config: TunedConfig) -> ECDiffPipeline:
    """The cloud of the small video pair alone."""
    sampling = replace(video_config.sampling, num_inference_steps=STEPS)
    config = replace(video_config, params=ECDiffParams.cloud_only(STEPS), sampling=sampling)
    return ECDiffPipeline.from_config(config, device="cpu")


@pytest.fixture(scope="module")
def plain(videos: ECDiffPipeline) -> Tensor:
    return latents(videos)


def latents(pipe: ECDiffPipeline, prompts: tuple[str, ...] = ("a red circle",)) -> Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    return pipe(list(prompts), generator=generators).latents


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_each_generation_has_a_cache_of_its_own(
    videos: ECDiffPipeline, plain: Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "first_block_cache":  # the first block of so small a model changes much at each step
        monkeypatch.setitem(CACHES, name, replace(CACHES[name], settings={"threshold": 10.0}))
    with cached(name, videos):
        first = latents(videos)
    with cached(name, videos):
        second = latents(videos)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)
    assert (first - plain).abs().max() > 1e-4  # it did leave out something
    assert torch.equal(latents(videos), plain)  # and left nothing behind


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_an_error_leaves_the_model_as_it_was(videos: ECDiffPipeline, plain: Tensor, name: str) -> None:
    with pytest.raises(KeyboardInterrupt), cached(name, videos):
        raise KeyboardInterrupt
    assert torch.equal(latents(videos), plain)


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_a_picture_does_not_depend_on_its_batch(videos: ECDiffPipeline, name: str) -> None:
    if CACHES[name].one_by_one:
        pytest.skip("made one by one")
    two = ("a red circle", "two blue stars")
    with cached(name, videos):
        alone = latents(videos)
    with cached(name, videos):
        together = latents(videos, two)
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)


def test_fewer_attentions_are_run(videos: ECDiffPipeline) -> None:
    runs: list[int] = []
    attention = videos.pair.cloud.get_submodule("transformer_blocks.0.attn1.to_q")
    hook = attention.register_forward_hook(lambda *_: runs.append(1))
    counts = {}
    for name in ("pab", "taylorseer"):
        runs.clear()
        with cached(name, videos):
            latents(videos)
        counts[name] = len(runs)
    hook.remove()
    assert 0 < counts["taylorseer"] < counts["pab"] < STEPS


def test_what_it_is_not_for(videos: ECDiffPipeline, pipe: ECDiffPipeline) -> None:
    assert why_not("pab", videos.pair.cloud) is None
    assert why_not("pab", pipe.pair.cloud) == "diffusers has no cache for UNet2DConditionModel"
    assert why_not("deepcache", videos.pair.cloud) == (
        "it is for U-Nets, not for CogVideoXTransformer3DModel"
    )
    assert why_not("deepcache", pipe.pair.edge) == "it wants a U-Net with a middle block"
    installed = find_spec("DeepCache") is not None
    assert (why_not("deepcache", pipe.pair.cloud) is None) == installed


@pytest.mark.skipif(find_spec("DeepCache") is None, reason="needs DeepCache")
def test_deepcache(tiny_config: TunedConfig) -> None:
    pipe = ECDiffPipeline.from_config(replace(tiny_config, params=ECDiffParams.cloud_only(12)), device="cpu")
    before = latents(pipe)
    with cached("deepcache", pipe):
        first = latents(pipe)
    with cached("deepcache", pipe):
        assert torch.equal(latents(pipe), first)
    assert (first - before).abs().max() > 1e-4
    assert torch.equal(latents(pipe), before)


def test_compare_tells_caches_apart(tiny_videos: Path, tmp_path: Path, command: Command) -> None:
    where = [
        "pair.name=videos",
        f"pair.cloud={tiny_videos / 'cloud'}",
        f"pair.edge={tiny_videos / 'edge'}",
        f"output_dir={tmp_path}",
    ]
    tuned = command(
        "stage2",
        *where,
        f"sampling.num_inference_steps={STEPS}",
        "sampling.scheduler=CogVideoXDDIMScheduler",
        "sampling.guidance_scale=3.0",
        "params.p=3",
        "params.k=1",
        "params.alpha=0.3",
        "search.s=[11]",
        "calibration.num_prompts=1",
        "heldout.num_prompts=2",
        "device=cpu",
    )
    assert tuned.status == 0, tuned
    outcome = command("compare", "pair=custom", *where, "compare.timed_prompts=1")
    assert outcome.status == 0, outcome
    quality = pd.read_csv(tmp_path / "videos/default/compare/table1.csv", index_col="method")
    cost = pd.read_csv(tmp_path / "videos/default/compare/table6.csv", index_col="method")
    assert {"fewer_own", "tuned", *IN_TRANSFORMERS} <= set(quality.index)
    assert quality.loc[IN_TRANSFORMERS, "ssim"].nunique() == len(IN_TRANSFORMERS)
    assert cost.loc[IN_TRANSFORMERS, "seconds"].isna().all()
    factor = cost.loc["cloud", "seconds"] / cost.loc["cloud", "measured_seconds"]
    for name in IN_TRANSFORMERS:
        assert cost.loc[name, "comparable_seconds"] == pytest.approx(
            factor * cost.loc[name, "measured_seconds"]
        )
