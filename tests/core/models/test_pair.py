"""Two models that fit together: every way in which they do not is one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ecdiff_core import ModelRef, PairSpec
from ecdiff_core.errors import PairError
from ecdiff_core.models import hub
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.find import find_configs
from ecdiff_core.models.model_folder import fingerprint
from ecdiff_core.models.pair import Pair, load_pair

from ...refusals import refused

Damage = Callable[[Path], object]
"""Something done to a folder that holds cloud/ and edge/."""


def spec_of(folder: Path) -> PairSpec:
    return PairSpec("tiny", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge")))


def load(spec: PairSpec) -> Pair:
    return load_pair(spec, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pair to damage."""
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


def weights_of(part: Path) -> Path:
    return next(part.glob("*.safetensors"))


def named(name: str, damage: Damage) -> Damage:
    """For the tests' ids."""
    damage.__name__ = name
    return damage


def halve_weights(part: str) -> Damage:
    def damage(folder: Path) -> None:
        path = weights_of(folder / part)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return named(f"half of {part}", damage)


def drop_a_tensor(part: str) -> Damage:
    def damage(folder: Path) -> None:
        path = weights_of(folder / part)
        tensors = load_file(path)
        del tensors[min(tensors)]
        save_file(tensors, path, metadata={"format": "pt"})

    return named(f"a tensor less in {part}", damage)


def write(path: str, text: str) -> Damage:
    return named(f"{text} in {path}", lambda folder: (folder / path).write_text(text, encoding="utf-8"))


def set_keys(path: str, **values: object) -> Damage:
    def damage(folder: Path) -> None:
        old = json.loads((folder / path).read_text(encoding="utf-8"))
        (folder / path).write_text(json.dumps({**old, **values}), encoding="utf-8")

    return named(f"{values} in {path}", damage)


def remove(path: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()

    return named(f"no {path}", damage)


def as_variant(part: str) -> Damage:
    def damage(folder: Path) -> None:
        path = weights_of(folder / part)
        path.rename(path.with_suffix(".fp16.safetensors"))

    return named(f"half-precision variant of {part}", damage)


def other_edge(**changes: int) -> Damage:
    def damage(folder: Path) -> None:
        config = UNet2DConditionModel.load_config(folder / "edge" / "unet")
        UNet2DConditionModel.from_config({**config, **changes}).save_pretrained(folder / "edge" / "unet")

    return named(f"edge of {changes}", damage)


def test_loads_and_says_what_it_loaded(tiny_pair: Path) -> None:
    pair = load(spec_of(tiny_pair))
    refs = (pair.spec.cloud, pair.spec.edge)
    assert [ref.id for ref in refs] == [str(tiny_pair / "cloud"), str(tiny_pair / "edge")]
    assert pair.spec.cloud.fingerprint == fingerprint(tiny_pair / "cloud", *CLOUD_PARTS)
    assert pair.spec.edge.fingerprint == fingerprint(tiny_pair / "edge", ("unet",))
    assert pair.cloud.num_parameters() > pair.edge.num_parameters() > 0
    assert not any(model.training for model in (pair.cloud, pair.edge))
    assert load(pair.spec).spec == pair.spec


def test_edge_needs_nothing_but_its_denoiser(own_pair: Path) -> None:
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(own_pair / "edge" / part)
    assert load(spec_of(own_pair)).edge.config.mid_block_type is None


def test_a_folder_has_no_revision(tiny_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tiny_pair / "edge"))
    spec = spec_of(tiny_pair)
    cloud, edge = replace(spec.cloud, revision="main"), ModelRef("owner/name", revision="main")
    found = load(replace(spec, cloud=cloud, edge=edge)).spec
    assert (found.cloud.revision, found.edge.revision) == (None, "main")


CLOUD_PARTS = (("unet", "vae", "text_encoder"), ("tokenizer", "scheduler"))
SIZE = re.compile(r"^\d+$")
WEIGHTED = ("cloud/unet", "cloud/vae", "cloud/text_encoder", "edge/unet")

UNUSABLE: list[tuple[Damage, str, dict[str, Any]]] = [
    # not there
    (remove("cloud"), "cloud", {}),
    (remove("edge"), "edge", {}),
    (remove("cloud/model_index.json"), "cloud", {}),
    (remove("cloud/unet"), "cloud/unet", {"got": []}),
    (remove("edge/unet"), "edge/unet", {"got": []}),
    (remove("cloud/text_encoder"), "cloud/text_encoder", {"got": []}),
    (remove("cloud/vae/config.json"), "cloud/vae/config.json", {}),
    (remove("cloud/tokenizer"), "cloud/tokenizer", {}),
    (remove("cloud/tokenizer/tokenizer_config.json"), "cloud/tokenizer/tokenizer_config.json", {}),
    (
        remove("cloud/tokenizer/tokenizer.json"),
        "cloud/tokenizer",
        {"expected": ["tokenizer.json", "vocab.json", "merges.txt"]},
    ),
    (remove("cloud/scheduler"), "cloud/scheduler", {}),
    # damaged
    *(
        (halve_weights(part), rf"{part}/\w+\.safetensors", {"expected": re.compile(r"\d+")})
        for part in WEIGHTED
    ),
    *((drop_a_tensor(part), part.partition("/")[0], {}) for part in WEIGHTED),
    (write("cloud/unet/config.json", "{"), "cloud/unet/config.json", {}),
    (
        write("cloud/text_encoder/config.json", "[]"),
        "cloud/text_encoder/config.json",
        {"got": [], "expected": "a mapping"},
    ),
    (write("cloud/tokenizer/tokenizer.json", "{"), "cloud", {}),
    (set_keys("edge/unet/config.json", block_out_channels=[64]), "edge", {"got": "conv_in.bias"}),
    (
        set_keys("cloud/text_encoder/config.json", intermediate_size=48),
        "cloud",
        {"advice": re.compile("config.json")},
    ),
    (set_keys("edge/unet/config.json", down_block_types=["A"]), "edge", {"line": ": A "}),
    (write("cloud/model_index.json", "{"), "cloud/model_index.json", {}),
    (write("cloud/model_index.json", "[]"), "cloud/model_index.json", {}),
    (write("edge/model_index.json", "{}"), "edge/model_index.json", {}),
    (set_keys("cloud/model_index.json", tokenizer=None), "cloud/model_index.json", {"line": "tokenizer"}),
    (set_keys("cloud/model_index.json", _class_name=["x"]), "cloud", {"got": "['x']"}),
    # not made for each other
    (
        set_keys("cloud/model_index.json", _class_name="FluxPipeline"),
        "cloud",
        {"got": "FluxPipeline", "expected": sorted(FAMILIES)},
    ),
    (
        set_keys("edge/model_index.json", _class_name="KandinskyPipeline"),
        "edge",
        {"got": "KandinskyPipeline", "expected": sorted(FAMILIES)},
    ),
    (other_edge(cross_attention_dim=48), "pair", {"got": {"embedding width": "32 | 48"}}),
    (other_edge(in_channels=8, out_channels=8), "pair", {"got": {"latent channels": "4, 4 | 8, 8"}}),
]


@pytest.mark.parametrize(("damage", "key", "about"), UNUSABLE, ids=[each[0].__name__ for each in UNUSABLE])
def test_what_cannot_be_loaded_is_one_line(
    own_pair: Path, damage: Damage, key: str, about: dict[str, Any]
) -> None:
    damage(own_pair)
    with refused(PairError, key=re.compile(rf"(^|/){key}$"), **about):
        load(spec_of(own_pair))


def test_pairs_of_two_families_are_refused(own_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecdiff_core.models import pair_files
    from ecdiff_core.models.families import StableDiffusion

    class Other(StableDiffusion):
        """Another family."""

    monkeypatch.setitem(pair_files.FAMILIES, "OtherPipeline", Other)
    set_keys("edge/model_index.json", _class_name="OtherPipeline")(own_pair)
    with refused(PairError, key=own_pair / "edge", got="Other", expected="StableDiffusion"):
        load(spec_of(own_pair))


@pytest.mark.parametrize("side", ["cloud", "edge"])
def test_other_fingerprints_are_told_before_weights_are_read(own_pair: Path, side: str) -> None:
    spec = load(spec_of(own_pair)).spec
    tuned_for = replace(getattr(spec, side), fingerprint="0123456789abcdef")
    drop_a_tensor(f"{side}/unet")(own_pair)
    now = fingerprint(own_pair / side, *(CLOUD_PARTS if side == "cloud" else (("unet",),)))
    with refused(PairError, key=f"{side}.fingerprint", got=now, expected="0123456789abcdef"):
        load(replace(spec, **{side: tuned_for}))


def test_fingerprint_follows_content_alone(tiny_pair: Path, own_pair: Path) -> None:
    parts = CLOUD_PARTS[0]
    first = fingerprint(tiny_pair / "cloud", parts)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert fingerprint(own_pair / "cloud", parts) == first
    assert fingerprint(own_pair / "edge", parts) != first
    assert fingerprint(own_pair / "cloud", parts[:1]) != first
    for part in parts:
        before = fingerprint(own_pair / "cloud", parts)
        set_keys(f"cloud/{part}/config.json", note="changed")(own_pair)
        assert fingerprint(own_pair / "cloud", parts) != before
    for part in CLOUD_PARTS[1]:
        before = fingerprint(own_pair / "cloud", *CLOUD_PARTS)
        (own_pair / "cloud" / part / "note.json").write_text("{}")
        assert fingerprint(own_pair / "cloud", *CLOUD_PARTS) != before


def test_fingerprint_leaves_out_variants_that_are_not_loaded(own_pair: Path) -> None:
    before = fingerprint(own_pair / "cloud", *CLOUD_PARTS)
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (own_pair / "cloud" / "unet" / name).write_bytes(b"another")
    assert fingerprint(own_pair / "cloud", *CLOUD_PARTS) == before


@pytest.mark.parametrize("error", [OSError("no network\nand more"), ValueError("no such repository")])
def test_a_hub_id_that_cannot_be_fetched_is_one_line(
    tiny_pair: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    spec = replace(spec_of(tiny_pair), cloud=ModelRef("nobody/nothing"))
    with refused(PairError, key="nobody/nothing", advice=re.compile("`hf download nobody/nothing`")):
        load(spec)


def test_a_hub_id_is_fetched_at_its_revision(tiny_pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None = None, **_: object) -> str:
        asked.append((name, revision))
        return str(tiny_pair / "cloud")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert find_configs(ModelRef("owner/name", revision="v1")) == tiny_pair / "cloud"
    assert asked == [("owner/name", "v1")]


@pytest.mark.parametrize(
    "name", ["embedded:shapes/nothing", "nothing", "./owner/nothing", "/owner/nothing", "~/x", "a/b/c"]
)
def test_what_is_no_hub_id_is_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with refused(PairError, key=re.compile(r"^/.*(x|nothing|c)$")):
        find_configs(ModelRef(name))


def test_embedded_models_are_found_in_the_package() -> None:
    import ecdiff_core

    package = Path(ecdiff_core.__file__).parent
    with refused(PairError, key=package / "shapes", expected=list(hub.MARKS)):
        find_configs(ModelRef("embedded:shapes"))


def test_a_relative_folder_wins_over_the_hub(
    own_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_configs(ModelRef("pair/cloud")) == own_pair / "cloud"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_configs(ModelRef("~/pair/cloud")) == own_pair / "cloud"


def test_a_relative_folder_is_named_so_that_it_is_found_from_anywhere(
    own_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = load(PairSpec("tiny", ModelRef("pair/cloud"), ModelRef("~/pair/edge"))).spec
    assert (spec.cloud.id, spec.edge.id) == (str(own_pair / "cloud"), str(own_pair / "edge"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(spec).spec == spec


def test_a_relative_folder_that_is_not_there_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def download(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with refused(PairError, key=tmp_path / "models" / "sd14" / "cloud"):
        find_configs(ModelRef("models/sd14/cloud"))
    with refused(PairError, key="models/sd14", line=str(tmp_path / "models" / "sd14")):
        find_configs(ModelRef("models/sd14"))
