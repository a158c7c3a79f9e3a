"""Models that are not those a config was tuned for, latents of another size: refused in one line."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from ecdiff_core import ECDiffPipeline, ModelRef, TunedConfig, apply_ecdiff
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.models.find import is_from

from ...hooking import STEPS, Pipe, run, with_plan, with_sampling
from ...refusals import refused

UNCHECKED = re.compile("check_weights=False")


@pytest.fixture(scope="module")
def tuned(config: TunedConfig) -> TunedConfig:
    """As the tuner writes it: with fingerprints, and digests of the tensors."""
    return ECDiffPipeline.from_config(config, device="cpu").config


def version_1(tuned: TunedConfig) -> TunedConfig:
    spec = tuned.pair
    bare = {side: replace(getattr(spec, side), tensors=None, parts=None) for side in ("cloud", "edge")}
    return replace(tuned, pair=replace(spec, **bare))


def by_hand(tuned: TunedConfig) -> TunedConfig:
    spec = version_1(tuned).pair
    bare = {side: replace(getattr(spec, side), fingerprint=None) for side in ("cloud", "edge")}
    return replace(tuned, pair=replace(spec, **bare))


def copied(model: Any, folder: str | None = None) -> UNet2DConditionModel:
    """The same weights in a model that was never in a folder, or says it was in ``folder``."""
    made = UNet2DConditionModel.from_config({**model.config, "_name_or_path": folder})
    made.load_state_dict(model.state_dict())
    return made.eval()


@pytest.mark.parametrize("as_written", [lambda config: config, version_1, by_hand])
def test_the_right_models_and_swapped_ones(
    as_written: Any, tuned: TunedConfig, pipe: Pipe, edge: Pipe
) -> None:
    config = as_written(tuned)
    assert config.format_version == (2 if config is tuned else 1)
    assert apply_ecdiff(pipe, config, edge=edge) is pipe
    assert apply_ecdiff(pipe, config, edge=edge.unet) is pipe
    with refused(PairError, key="cloud", got=tuned.pair.edge.id, expected=tuned.pair.cloud.id):
        apply_ecdiff(edge, config, edge=pipe.unet.__class__.from_config(pipe.unet.config).eval())
    assert not hasattr(edge, "ecdiff")


def test_swapped_tensors_without_a_folder(tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    own = pipe.unet
    pipe.unet = copied(edge.unet)
    with refused(PairError, key="cloud", got=tuned.pair.edge.id, expected=tuned.pair.cloud.id):
        apply_ecdiff(pipe, tuned, edge=copied(own))
    pipe.unet = copied(own)
    apply_ecdiff(pipe, tuned, edge=copied(edge.unet))


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_weights_that_are_all_zero(side: str, tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    cloud, other = copied(pipe.unet), copied(edge.unet)
    for parameter in (cloud if side == "cloud" else other).parameters():
        parameter.data.zero_()
    pipe.unet = cloud
    for config in (tuned, by_hand(tuned)):
        with refused(PairError, key=side, got=0):
            apply_ecdiff(pipe, config, edge=other)
    apply_ecdiff(pipe, tuned, edge=other, check_weights=False)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_other_parts_that_are_all_zero(part: str, tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    own = getattr(pipe, part)
    empty = copy.deepcopy(own)
    for parameter in empty.parameters():
        parameter.data.zero_()
    setattr(pipe, part, empty)
    try:
        with refused(PairError, key=part, got=0):
            apply_ecdiff(pipe, tuned, edge=copied(edge.unet))
    finally:
        setattr(pipe, part, own)


def test_weights_that_cannot_be_compared_are_named(tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """Rounded to bfloat16 they do not tell what they were in float32."""
    own, pipe.unet = pipe.unet, copied(pipe.unet).to(torch.bfloat16)
    try:
        with pytest.warns(UserWarning, match="model's weights were not compared .*: in memory they") as both:
            apply_ecdiff(pipe, tuned, edge=copied(edge.unet).to(torch.bfloat16))
        assert [str(one.message).split()[1] for one in both] == ["cloud", "edge"]
    finally:
        pipe.unet = own


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_a_single_other_weight(side: str, tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """In memory, which files do not tell; what changes after apply_ecdiff is not looked at."""
    cloud, other = copied(pipe.unet), copied(edge.unet)
    pipe.unet = cloud
    apply_ecdiff(pipe, tuned, edge=other)
    weight = (cloud if side == "cloud" else other).conv_in.weight
    weight.data.view(-1)[5] *= 1.001
    run(pipe)
    expected = getattr(tuned.pair, side).tensors
    with refused(PairError, key=f"{side}.tensors", expected=expected, advice=UNCHECKED):
        apply_ecdiff(pipe, tuned, edge=other)
    apply_ecdiff(pipe, tuned, edge=other, check_weights=False)


def test_version_1_compares_the_files_of_the_folder(
    tuned: TunedConfig, pipe: Pipe, edge: Pipe, tmp_path: Path
) -> None:
    config = version_1(tuned)
    other = copied(edge.unet)
    other.conv_in.weight.data[0] += 0.1
    other.save_pretrained(tmp_path / "unet")
    with refused(PairError, key="edge.fingerprint"):
        apply_ecdiff(pipe, config, edge=copied(other, str(tmp_path)))
    assert not hasattr(pipe, "ecdiff")
    apply_ecdiff(pipe, config, edge=copied(other, str(tmp_path)), check_weights=False)
    with pytest.warns(
        UserWarning, match=rf"The edge model's weights were not .*those of {tuned.pair.edge.id}"
    ):
        apply_ecdiff(pipe, config, edge=copied(edge.unet))  # nothing says where it is from
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_ecdiff(pipe, config, edge=copied(edge.unet), check_weights=False)
        apply_ecdiff(pipe, by_hand(tuned), edge=copied(edge.unet))


def test_another_precision(
    folder: Path, tuned: TunedConfig, config: TunedConfig, edge: Pipe, pipe: Pipe
) -> None:
    """float32 can be rounded to what was tuned; what is coarser is compared with its files, rounded alike."""
    half = ECDiffPipeline.from_config(config, device="cpu", dtype="float16").config
    assert half.pair.cloud.tensors != tuned.pair.cloud.tensors
    apply_ecdiff(pipe, half, edge=edge)
    own, pipe.unet = pipe.unet, copied(pipe.unet, str(folder / "cloud")).bfloat16()
    coarse = copied(edge.unet, str(folder / "edge")).bfloat16()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_ecdiff(pipe, tuned, edge=coarse)
        changed = replace(tuned.pair.edge, fingerprint="0123456789abcdef")
        with refused(PairError, key="edge.fingerprint", expected=changed.fingerprint):
            apply_ecdiff(pipe, replace(tuned, pair=replace(tuned.pair, edge=changed)), edge=coarse)
        for model in (coarse, pipe.unet):
            model.conv_in.weight.data.mul_(1.01)
            side = "edge" if model is coarse else "cloud"
            with refused(PairError, key=f"{side}.files", got=str(folder / side / "unet")):
                apply_ecdiff(pipe, tuned, edge=coarse)
            model.conv_in.weight.data.copy_((edge.unet if model is coarse else own).conv_in.weight)
    pipe.unet = own


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_other_parts_are_named(part: str, tuned: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    """Cloud and edge share them, so that another one is the user's to choose."""
    assert set(tuned.pair.cloud.parts or {}) == {"vae", "text_encoder"}
    own = getattr(pipe, part)
    changed = copy.deepcopy(own)
    next(p for p in changed.parameters() if p.ndim > 1).data.view(-1)[3] *= 1.01
    setattr(pipe, part, changed)
    try:
        with pytest.warns(UserWarning, match=rf"The pipeline's {part} has other weights than the config"):
            apply_ecdiff(pipe, tuned, edge=edge)
        setattr(pipe, part, None if part == "text_encoder" else own)  # embeddings are given to the call
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply_ecdiff(pipe, tuned, edge=edge)
    finally:
        setattr(pipe, part, own)


def test_our_own_pipeline_compares_tensors_as_well(tuned: TunedConfig) -> None:
    """By hand, without a fingerprint; in another dtype they are other ones."""
    ours = by_hand(tuned).pair
    bare = replace(ours, edge=replace(ours.edge, tensors="0123456789abcdef"))
    with refused(PairError, key="edge.tensors"):
        ECDiffPipeline.from_config(replace(tuned, pair=bare), device="cpu")
    ECDiffPipeline.from_config(replace(tuned, pair=bare), device="cpu", check_weights=False)
    ECDiffPipeline.from_config(replace(tuned, pair=bare), device="cpu", dtype="bfloat16")


def test_another_size(config: TunedConfig, pipe: Pipe, edge: Pipe) -> None:
    apply_ecdiff(pipe, with_sampling(config, height=32, width=32), edge=edge)
    expected = run(pipe)
    with refused(ParamsError, key="height", got={"height": 48}, expected="height=32"):
        run(pipe, height=48, width=32)
    assert torch.equal(run(pipe, height=32, width=32), expected)
    apply_ecdiff(pipe, with_sampling(config, width=48), edge=edge)
    with refused(ParamsError, key="width", got={"width": 32}, expected="width=48"):
        run(pipe)
    assert run(pipe, height=32, width=48).shape[-2:] == (8, 12)


def test_folders_of_the_hub_s_cache() -> None:
    edge, cloud = ModelRef("nota-ai/bk-sdm-small"), ModelRef("CompVis/stable-diffusion-v1-4")
    snapshot = Path("/cache/models--nota-ai--bk-sdm-small/snapshots/0123")
    assert is_from(snapshot, edge)
    assert not is_from(snapshot, cloud)


def test_a_plan_without_edge_calls_needs_the_cloud_alone(tuned: TunedConfig, pipe: Pipe) -> None:
    apply_ecdiff(pipe, with_plan(tuned, "no edge"))
    assert pipe.ecdiff.plan.num_steps == STEPS
