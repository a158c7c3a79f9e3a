"""LoRA on the models of a pair: as diffusers would load them, and part of the fingerprint."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from ecdiff_core import ECDiffPipeline, ModelRef, TunedConfig, apply_ecdiff
from ecdiff_core.errors import ConfigError, PairError
from ecdiff_core.hook.adapters import adapter_notes
from ecdiff_core.models.lora import adapted
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.models.pair_spec import Lora, PairSpec

from ... import hooking
from ...refusals import refused

pytest.importorskip("peft")
RANK = 2
NAMES = "attn1.to_q", "attn2.to_v"


@pytest.fixture(scope="module")
def lora(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of attention layers of the cloud, as diffusers saves it."""
    return save_lora(tiny_pair / "cloud", tmp_path_factory.mktemp("lora") / "style.safetensors")


def save_lora(model: Path, path: Path, prefix: str = "unet", seed: int = 0) -> Path:
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in unet.named_modules():
        if name.endswith(NAMES):
            for end, shape in (("A", (RANK, layer.in_features)), ("B", (layer.out_features, RANK))):
                tensors[f"{prefix}.{name}.lora_{end}.weight"] = torch.randn(shape, generator=generator)
    save_file(tensors, path)
    return path


def load(pair: Path, *adapters: Lora) -> Pair:
    spec = PairSpec("tiny", ModelRef(str(pair / "cloud")), ModelRef(str(pair / "edge")), adapters)
    return load_pair(spec, device=torch.device("cpu"), dtype=torch.float32)


def output(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 7, 32)))
    with torch.no_grad():
        found: torch.Tensor = model(latents, 500, text, return_dict=False)[0]
    return found


def test_on_the_cloud_it_is_what_diffusers_makes(tiny_pair: Path, lora: Path) -> None:
    bare, pair = load(tiny_pair), load(tiny_pair, Lora(str(lora), 0.5, "cloud"))
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pair / "cloud", safety_checker=None)
    pipe.load_lora_weights(lora, adapter_name="style")
    pipe.set_adapters(["style"], [0.5])
    assert output(pair.cloud).equal(output(pipe.unet))
    assert not output(pair.cloud).allclose(output(bare.cloud), atol=1e-3)
    assert output(pair.edge).equal(output(bare.edge))
    assert pair.spec.edge == bare.spec.edge
    assert pair.notes == ()


def test_on_both_the_edge_has_the_layers_that_it_shares(tiny_pair: Path, lora: Path) -> None:
    bare, pair = load(tiny_pair), load(tiny_pair, Lora(str(lora)))
    assert not output(pair.edge).allclose(output(bare.edge), atol=1e-3)
    (note,) = pair.notes  # the edge has one layer a block in place of two, and no mid block
    layers = [name for name in dict(bare.cloud.named_modules()) if name.endswith(NAMES)]
    shared = [name for name in dict(bare.edge.named_modules()) if name.endswith(NAMES)]
    missing = len(set(layers) - set(shared))
    assert note == f"{missing} of {len(layers)} layers of the LoRA {lora} have no place in the edge"
    alone = load(tiny_pair, Lora(str(lora), on="edge"))
    assert output(alone.edge).equal(output(pair.edge))
    assert output(alone.cloud).equal(output(bare.cloud))


def test_it_is_part_of_the_fingerprint_and_of_the_yaml(
    tiny_pair: Path, lora: Path, tiny_config: TunedConfig
) -> None:
    bare, spec = load(tiny_pair).spec, load(tiny_pair, Lora(str(lora), 0.5, "cloud")).spec
    assert spec.cloud.fingerprint == adapted(bare.cloud.fingerprint or "", spec.lora)
    assert len({bare.cloud.fingerprint, spec.cloud.fingerprint}) == 2
    heavier = load(tiny_pair, Lora(str(lora), 0.6, "cloud")).spec
    assert heavier.cloud.fingerprint != spec.cloud.fingerprint
    text = replace(tiny_config, pair=spec).to_yaml()
    assert f"  - path: {lora}\n    weight: 0.5" in text
    config = TunedConfig.from_yaml(text)
    assert config.pair == spec
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    assert pipe.pair.spec == spec
    other = replace(spec.lora[0], fingerprint="0123456789abcdef")
    config = replace(config, pair=replace(spec, lora=[other]))
    assert ECDiffPipeline.from_config(config, device="cpu", check_weights=False).pair.spec == spec
    without = replace(spec, lora=())
    with refused(PairError, key="cloud.fingerprint", expected=spec.cloud.fingerprint):
        load_pair(without, device=torch.device("cpu"), dtype=torch.float32)


def hooked(tiny_pair: Path, config: TunedConfig, lora: Path, *sides: str) -> tuple[torch.Tensor, list[str]]:
    """Latents and warnings of two generations of a hooked pipeline with the adapter on these sides."""
    pipes = {side: hooking.load(tiny_pair / side) for side in ("cloud", "edge")}
    for side in sides:
        pipes[side].load_lora_weights(lora, adapter_name="style")
        pipes[side].set_adapters(["style"], [0.5])
    apply_ecdiff(pipes["cloud"], config, edge=pipes["edge"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hooking.run(pipes["cloud"])
        latents = hooking.run(pipes["cloud"])
    return latents, [str(one.message) for one in caught if one.category is UserWarning]


def test_the_hook_says_so_where_the_edge_lacks_it(
    tiny_pair: Path, lora: Path, tiny_config: TunedConfig
) -> None:
    _, (line,) = hooked(tiny_pair, tiny_config, lora, "cloud")
    assert line.startswith("The cloud carries the adapter style and the edge none: ")
    assert hooked(tiny_pair, tiny_config, lora, "cloud", "edge")[1] == []
    assert hooked(tiny_pair, tiny_config, lora)[1] == []


def test_the_hook_makes_what_was_tuned(tiny_pair: Path, lora: Path, tiny_config: TunedConfig) -> None:
    pipe = ECDiffPipeline.from_config(
        replace(tiny_config, pair=load(tiny_pair, Lora(str(lora), 0.5)).spec), device="cpu"
    )
    expected = pipe(hooking.PROMPT, generator=hooking.seeded()).latents
    latents, said = hooked(tiny_pair, pipe.config, lora, "cloud", "edge")
    hooking.assert_close(latents, expected, hooking.rounding(expected))
    assert said == []


def test_what_the_config_says_of_adapters(tiny_pair: Path, lora: Path) -> None:
    bare, both = load(tiny_pair), load(tiny_pair, Lora(str(lora)))
    spec = replace(bare.spec, lora=[Lora("l", on="cloud")])
    pipe = bare.family.pipeline
    assert adapter_notes(pipe, both.cloud, bare.edge, spec) == []  # as it was tuned
    assert len(adapter_notes(pipe, both.cloud, bare.edge, bare.spec)) == 1
    assert adapter_notes(pipe, bare.cloud, bare.edge, replace(spec, lora=[Lora("l")])) == [
        f"The config was tuned with l on the {side}, which carries no adapter: load it, unless it is fused."
        for side in ("cloud", "edge")
    ]
    assert len(adapter_notes(pipe, bare.cloud, None, replace(spec, lora=[Lora("l")]))) == 1
    both.cloud.disable_adapters()
    assert adapter_notes(pipe, both.cloud, bare.edge, bare.spec) == []


def test_another_adapter_or_weight_than_tuned_is_named(tiny_pair: Path, lora: Path, tmp_path: Path) -> None:
    other = save_lora(tiny_pair / "cloud", tmp_path / "other.safetensors", seed=1)
    tuned = load(tiny_pair, Lora(str(lora), 0.5))
    spec, pipe, (cloud, edge) = tuned.spec, tuned.family.pipeline, (tuned.cloud, tuned.edge)
    assert adapter_notes(pipe, cloud, edge, spec) == []
    cloud.set_adapters(["ecdiff_0"], [0.2])
    (line,) = adapter_notes(pipe, cloud, edge, spec)
    asked = rf"the config was tuned with {lora} with weight 0\.5: p, k, alpha and s hold for that"
    assert re.match(rf"The cloud carries ecdiff_0 with weight 0\.2, {asked}", line)
    loaded = load(tiny_pair, Lora(str(other), 0.5))
    lines = adapter_notes(pipe, loaded.cloud, loaded.edge, spec)
    assert [line.partition(" is another than")[0] for line in lines] == [
        f"The adapter ecdiff_0 on the {side}" for side in ("cloud", "edge")
    ]
    half = loaded.cloud.half(), loaded.edge.half()
    assert len(adapter_notes(pipe, *half, spec)) == 2
    assert adapter_notes(pipe, *half, loaded.spec) == []


def test_what_cannot_be_used_is_one_line(tiny_pair: Path, lora: Path, tmp_path: Path) -> None:
    with refused(PairError, key=tmp_path / "nothing"):
        load(tiny_pair, Lora(str(tmp_path / "nothing")))
    with refused(PairError, key=lora, expected="0123456789abcdef"):
        load(tiny_pair, Lora(str(lora), fingerprint="0123456789abcdef"))
    other = save_lora(tiny_pair / "cloud", tmp_path / "other.safetensors", prefix="transformer")
    with refused(PairError, key=other, got="cloud"):
        load(tiny_pair, Lora(str(other), on="cloud"))
    with refused(PairError, key=other, got="edge"):
        load(tiny_pair, Lora(str(other), on="edge"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(lora.read_bytes()[:100])
    with refused(PairError, key=damaged):
        load(tiny_pair, Lora(str(damaged)))
    with refused(ConfigError, key="pair.lora.on", got="clowd", expected=["both", "cloud", "edge"]):
        Lora("x", on="clowd")  # type: ignore[arg-type]
