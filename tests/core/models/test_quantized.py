"""Models that were saved quantised: what their config says is honoured, a missing package is one line."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ecdiff_core import ECDiffPipeline, ModelRef, TunedConfig
from ecdiff_core.errors import PairError
from ecdiff_core.models.find import ModelFiles
from ecdiff_core.models.inventory import inventory
from ecdiff_core.models.pair import load_pair

from ... import hooking
from ...refusals import refused


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


def quantize(part: Path, **quantization: object) -> None:
    """As far as config.json goes."""
    path = part / "config.json"
    tree = {**json.loads(path.read_text(encoding="utf-8")), "quantization_config": quantization}
    path.write_text(json.dumps(tree), encoding="utf-8")


def of(config: TunedConfig, pair: Path) -> TunedConfig:
    cloud, edge = (ModelRef(str(pair / side)) for side in ("cloud", "edge"))
    return replace(config, pair=replace(config.pair, cloud=cloud, edge=edge))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize(
    ("method", "pip"),
    [("bitsandbytes", "bitsandbytes"), ("torchao", "torchao"), ("quanto", "optimum-quanto")],
)
def test_without_the_package(
    own_pair: Path, tiny_config: TunedConfig, part: str, method: str, pip: str
) -> None:
    if importlib.util.find_spec(pip) is not None:
        pytest.skip(f"{pip} is installed")
    quantize(own_pair / "cloud" / part, quant_method=method, load_in_4bit=True)
    spec = of(tiny_config, own_pair).pair
    advice = re.compile(f"`pip install {pip}`")
    with refused(PairError, key=own_pair / "cloud" / part, got=method, advice=advice):
        load_pair(spec, device=torch.device("cpu"), dtype=torch.float32)


def test_what_the_config_says_reaches_diffusers(own_pair: Path, tiny_config: TunedConfig) -> None:
    quantize(own_pair / "cloud" / "unet", quant_method="no_such_method")
    spec = of(tiny_config, own_pair).pair
    with refused(PairError, key=own_pair / "cloud", line="no_such_method"):
        load_pair(spec, device=torch.device("cpu"), dtype=torch.float32)


def test_parameters_are_counted_as_the_config_has_them(own_pair: Path) -> None:
    whole = UNet2DConditionModel.from_pretrained(own_pair / "cloud" / "unet").num_parameters()
    quantize(own_pair / "cloud" / "unet", quant_method="bitsandbytes", load_in_4bit=True)
    (part,) = inventory(ModelFiles(own_pair / "cloud"), ["unet"])
    assert (part.parameters, part.quantized) == (whole, "bitsandbytes")


def test_a_cloud_that_torchao_quantised(own_pair: Path, tiny_config: TunedConfig) -> None:
    """Loaded as it was saved, generating, inside diffusers too."""
    torchao = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig

    folder = own_pair / "cloud" / "unet"
    quantization = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    unet = UNet2DConditionModel.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16
    )
    unet.save_pretrained(folder)
    config = hooking.with_sampling(of(tiny_config, own_pair), dtype="bfloat16")
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    kinds = {type(parameter).__name__ for parameter in pipe.pair.cloud.parameters()}
    assert kinds == {"Parameter", "Int8Tensor"}
    latents = pipe(hooking.PROMPT, generator=hooking.seeded()).latents
    exact = ECDiffPipeline.from_config(hooking.with_sampling(tiny_config, dtype="bfloat16"), device="cpu")(
        hooking.PROMPT, generator=hooking.seeded()
    ).latents
    assert 0 < (latents - exact).float().norm() / exact.float().norm() < 0.1
