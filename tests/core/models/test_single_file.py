"""Models in one ``.safetensors`` file, by diffusers' ``from_single_file``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecdiff_core import ECDiffPipeline, ModelRef, PairSpec, TunedConfig
from ecdiff_core.errors import PairError
from ecdiff_core.models.find import ModelFiles
from ecdiff_core.models.inventory import inventory
from ecdiff_core.models.pair import Pair, load_pair

from ... import hooking
from ...refusals import refused
from ...small_single_file import save_single_file


@pytest.fixture(scope="module")
def checkpoint(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cloud in one file."""
    return save_single_file(tiny_pair / "cloud", tmp_path_factory.mktemp("single") / "cloud.safetensors")


def load(cloud: ModelRef, edge: ModelRef) -> Pair:
    return load_pair(PairSpec("tiny", cloud, edge), device=torch.device("cpu"), dtype=torch.float32)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in ours.items())


def test_a_cloud_of_one_file(
    tiny_pair: Path, checkpoint: Path, tiny_config: TunedConfig, tmp_path: Path
) -> None:
    """Its folder of configs needs no weights; the images are those of the same weights in a folder."""
    configs = Path(shutil.copytree(tiny_pair / "cloud", tmp_path / "configs"))
    for path in configs.rglob("*.safetensors"):
        path.unlink()
    cloud = ModelRef(str(checkpoint), config=str(configs))
    config = replace(tiny_config, pair=replace(tiny_config.pair, cloud=cloud))
    expected = ECDiffPipeline.from_config(tiny_config, device="cpu")
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    assert all(map(equal, pipe.pair.family.models, expected.pair.family.models))
    ours, theirs = (p(hooking.PROMPT, generator=hooking.seeded()).latents for p in (pipe, expected))
    assert ours.equal(theirs)
    again = TunedConfig.from_yaml(pipe.config.to_yaml())
    assert f"    config: {configs}  # " in pipe.config.to_yaml()
    assert load(again.pair.cloud, again.pair.edge).spec == pipe.pair.spec
    renamed = Path(shutil.copy(checkpoint, tmp_path / "renamed.safetensors"))
    assert load(replace(again.pair.cloud, id=str(renamed)), again.pair.edge).spec.cloud.id == str(renamed)


def test_an_edge_of_one_file(tiny_pair: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A whole model, of which the denoiser is taken, or the denoiser alone as diffusers names it."""
    cloud = ModelRef(str(tiny_pair / "edge"))
    edge = ModelRef(str(checkpoint), config=str(tiny_pair / "cloud" / "unet"))
    whole = load(cloud, edge)
    expected = load(cloud, ModelRef(str(tiny_pair / "cloud"))).edge
    assert equal(whole.edge, expected)
    assert whole.notes[0].startswith("the edge is larger than the cloud (")
    alone = tmp_path / "unet.safetensors"
    save_file(expected.state_dict(), alone)
    assert equal(load(cloud, replace(edge, id=str(alone))).edge, expected)


def test_one_file_has_one_size(tiny_pair: Path, checkpoint: Path) -> None:
    files = ModelFiles(tiny_pair / "cloud", checkpoint=checkpoint)
    (part,) = inventory(files, ["unet", "vae"])
    assert (part.name, part.files) == ("unet, vae", (checkpoint.name,))
    assert part.size_bytes == checkpoint.stat().st_size
    assert part.parameters == sum(
        one.parameters for one in inventory(ModelFiles(tiny_pair / "cloud"), ["unet", "vae"])
    )


def test_what_cannot_be_used_is_one_line(tiny_pair: Path, checkpoint: Path, tmp_path: Path) -> None:
    cloud, edge = ModelRef(str(tiny_pair / "cloud")), ModelRef(str(tiny_pair / "edge"))
    with refused(PairError, key=checkpoint, got="stable-diffusion-v1-5/stable-diffusion-v1-5"):
        load(ModelRef(str(checkpoint)), edge)
    with refused(PairError, key=tmp_path / "nothing.safetensors"):
        load(ModelRef(str(tmp_path / "nothing.safetensors"), config=cloud.id), edge)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:1000])
    with refused(PairError, key=damaged):
        load(ModelRef(str(damaged), config=cloud.id), edge)
    deeper = Path(shutil.copytree(tiny_pair / "cloud", tmp_path / "deeper"))
    settings = json.loads((deeper / "unet" / "config.json").read_text(encoding="utf-8"))
    settings["layers_per_block"] = 2
    (deeper / "unet" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with refused(PairError, key=checkpoint, expected=str(deeper)):
        load(cloud, ModelRef(str(checkpoint), config=str(deeper)))
    less = tmp_path / "less.safetensors"
    tensors = load_file(checkpoint)
    save_file({name: value for name, value in tensors.items() if "diffusion_model" not in name}, less)
    with refused(PairError, key=less):
        load(ModelRef(str(less), config=cloud.id), edge)
