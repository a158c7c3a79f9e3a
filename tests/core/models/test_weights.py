"""Weights as people have them: variants, a denoiser alone, what is fetched from the hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ecdiff_core import ModelRef, PairSpec
from ecdiff_core.errors import PairError
from ecdiff_core.models import hub as hub_module
from ecdiff_core.models.hub import MARKS
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.models.weight_files import by_variant, choose_variant

from ...refusals import refused
from .hub import Hub


def load(cloud: ModelRef, edge: ModelRef) -> Pair:
    return load_pair(PairSpec("tiny", cloud, edge), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


@pytest.fixture
def hub(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """``owner/cloud`` and ``owner/edge`` with plain weights and fp16 beside them."""
    for side in ("cloud", "edge"):
        shutil.copytree(tiny_pair / side, tmp_path / "hub" / side)
        add_variant(tmp_path / "hub" / side)
    hub = Hub({f"owner/{side}": tmp_path / "hub" / side for side in ("cloud", "edge")}, tmp_path / "cache")
    for name in ("snapshot_download", "try_to_load_from_cache"):
        monkeypatch.setattr(hub_module, name, getattr(hub, name))
    return hub


def add_variant(folder: Path, variant: str = "fp16", keep: bool = True) -> None:
    """Copies (or in their place) of the weights under a variant's name."""
    for path in list(folder.rglob("*.safetensors")):
        (shutil.copy if keep else shutil.move)(path, path.with_suffix(f".{variant}.safetensors"))


def weights(pair: Pair) -> torch.Tensor:
    return torch.cat([p.flatten() for model in (pair.cloud, pair.edge) for p in model.parameters()])


def test_names_of_variants() -> None:
    names = [
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.fp16.safetensors",  # older
        "diffusion_pytorch_model.non_ema.bin",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_flax_model.msgpack",
    ]
    assert by_variant(names) == {
        None: ["diffusion_pytorch_model.safetensors"],
        "fp16": [names[1], names[0]],
        "non_ema": ["diffusion_pytorch_model.non_ema.bin"],
    }


PLAIN, HALF, EMA = "model.safetensors", "model.fp16.safetensors", "model.ema.safetensors"


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        ([[PLAIN, HALF], [PLAIN]], "auto", None),
        ([[PLAIN, HALF], [HALF]], "auto", "fp16"),
        ([[HALF], [PLAIN]], "auto", "fp16"),
        ([[HALF, EMA], [HALF, EMA]], "auto", "fp16"),
        ([[EMA], [PLAIN]], "auto", "ema"),
        ([[EMA], [HALF]], "auto", None),  # neither is complete
        ([[], [PLAIN]], "auto", None),
        ([[PLAIN, HALF], [PLAIN]], "fp16", "fp16"),
        ([[PLAIN, HALF], [HALF]], None, None),
    ],
)
def test_choice_of_a_variant(names: list[list[str]], wanted: str | None, chosen: str | None) -> None:
    assert choose_variant({Path(str(i)): each for i, each in enumerate(names)}, wanted) == chosen


def test_a_choice_that_cannot_be_made_is_one_line() -> None:
    here = Path("m/unet")
    with refused(PairError, key="variant", got="fp16", expected=["ema"]):
        choose_variant({here: [EMA]}, "fp16")
    with refused(PairError, key="variant", expected=["a", "ema"]):
        choose_variant({here: [EMA, "model.a.safetensors"]}, "auto")


@pytest.mark.parametrize("variant", ["auto", "fp16"])
def test_a_folder_of_a_variant_alone(tiny_pair: Path, own_pair: Path, variant: str) -> None:
    for side in ("cloud", "edge"):
        add_variant(own_pair / side, keep=False)
    cloud, edge = (ModelRef(str(own_pair / side), variant=variant) for side in ("cloud", "edge"))
    pair = load(cloud, edge)
    assert weights(pair).equal(
        weights(load(ModelRef(str(tiny_pair / "cloud")), ModelRef(str(tiny_pair / "edge"))))
    )
    assert (pair.spec.cloud.variant, pair.spec.edge.variant) == ("fp16", "fp16")
    said = [
        f"the {side}'s weights are the variant fp16: there are no plain ones in {own_pair / side}"
        for side in ("cloud", "edge")
    ]
    assert list(pair.notes) == (said if variant == "auto" else [])
    assert load(pair.spec.cloud, pair.spec.edge).spec == pair.spec


def test_plain_weights_win_and_are_not_written(own_pair: Path) -> None:
    add_variant(own_pair / "edge")
    edge = own_pair / "edge" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    edge.write_bytes(b"damaged")
    spec = load(ModelRef(str(own_pair / "cloud")), ModelRef(str(own_pair / "edge"))).spec
    assert spec.tree()["edge"] == {
        "id": str(own_pair / "edge"),
        "revision": None,
        "fingerprint": spec.edge.fingerprint,
        "tensors": spec.edge.tensors,
    }
    with refused(PairError, key=edge):
        load(spec.cloud, ModelRef(str(own_pair / "edge"), variant="fp16"))


def test_each_side_has_its_own_variant(own_pair: Path) -> None:
    add_variant(own_pair / "edge", keep=False)
    spec = load(
        ModelRef(str(own_pair / "cloud"), variant=None), ModelRef(str(own_pair / "edge"), variant="fp16")
    ).spec
    assert (spec.cloud.variant, spec.edge.variant) == (None, "fp16")
    names = ["diffusion_pytorch_model.fp16.safetensors"]
    with refused(PairError, key=own_pair / "edge" / "unet", got=names):
        load(spec.cloud, ModelRef(str(own_pair / "edge"), variant=None))


def alone_in_unet(folder: Path) -> Path:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and path.name != "unet" else None
    (folder / "model_index.json").unlink()
    return folder


LAYOUTS: dict[str, Callable[[Path], ModelRef]] = {
    "unet/ alone": lambda folder: ModelRef(str(alone_in_unet(folder))),
    "the folder of one": lambda folder: ModelRef(str(folder / "unet")),
    "a subfolder": lambda folder: ModelRef(str(folder), subfolder="unet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_denoiser_alone(tiny_pair: Path, own_pair: Path, layout: str) -> None:
    cloud = ModelRef(str(tiny_pair / "cloud"))
    whole, alone = (
        load(cloud, ModelRef(str(tiny_pair / "edge"))),
        load(cloud, LAYOUTS[layout](own_pair / "edge")),
    )
    assert weights(alone).equal(weights(whole))
    assert alone.spec.edge.fingerprint == whole.spec.edge.fingerprint
    assert load(alone.spec.cloud, alone.spec.edge).spec == alone.spec


def test_what_is_no_denoiser_of_the_clouds_kind(own_pair: Path, sd3_pair: Path) -> None:
    cloud = ModelRef(str(own_pair / "cloud"))
    ours = "UNet2DConditionModel"
    with refused(PairError, key=own_pair / "edge" / "vae", got="AutoencoderKL", expected=ours):
        load(cloud, ModelRef(str(own_pair / "edge" / "vae")))
    with refused(
        PairError, key=sd3_pair / "edge" / "transformer", got="SD3Transformer2DModel", expected=ours
    ):
        load(cloud, ModelRef(str(sd3_pair / "edge" / "transformer")))
    with refused(PairError, key=own_pair / "edge" / "scheduler", expected=list(MARKS)):
        load(cloud, ModelRef(str(own_pair / "edge" / "scheduler")))
    with refused(PairError, key=own_pair / "cloud" / "unet", expected=""):
        load(ModelRef(str(own_pair / "cloud" / "unet")), cloud)


def test_bin_weights_are_loaded_without_a_complaint(
    own_pair: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    unet = own_pair / "edge" / "unet"
    UNet2DConditionModel.from_pretrained(unet).save_pretrained(unet, safe_serialization=False)
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    capsys.readouterr()
    load(ModelRef(str(own_pair / "cloud")), ModelRef(str(own_pair / "edge")))
    assert "error occurred" not in "".join(capsys.readouterr()) + caplog.text


CLOUD = ModelRef("owner/cloud")


@pytest.mark.parametrize(("variant", "suffix"), [("auto", ""), ("fp16", ".fp16")])
def test_of_the_hub_one_variant_is_fetched(hub: Hub, variant: str, suffix: str) -> None:
    spec = load(replace(CLOUD, variant=variant), ModelRef("owner/edge", variant=variant)).spec
    weights = [name for name in hub.fetched if name.endswith(".safetensors")]
    model = f"diffusion_pytorch_model{suffix}.safetensors"
    assert weights == [
        f"text_encoder/model{suffix}.safetensors",
        f"unet/{model}",
        f"vae/{model}",
        f"unet/{model}",
    ]
    assert not [path for path in hub.folder("owner/edge").rglob("*") if "tokenizer/merges" in str(path)]
    hub.reachable = False
    hub.fetched.clear()
    assert load(spec.cloud, spec.edge).spec == spec
    assert hub.fetched == []


def test_auto_takes_the_variant_that_was_fetched_before(hub: Hub) -> None:
    load(replace(CLOUD, variant="fp16"), ModelRef("owner/edge", variant="fp16"))
    before = list(hub.fetched)
    pair = load(CLOUD, ModelRef("owner/edge"))
    assert hub.fetched == before
    assert pair.spec.cloud.variant == "fp16"
    assert len(pair.notes) == 2
    # A config that names no variant was tuned with the plain weights.
    plain = replace(CLOUD, fingerprint="0123456789abcdef")
    with refused(PairError, key="cloud.fingerprint", expected="0123456789abcdef"):
        load(plain, ModelRef("owner/edge"))
    assert "unet/diffusion_pytorch_model.safetensors" in hub.fetched


def test_nothing_is_fetched_of_two_that_do_not_fit(hub: Hub) -> None:
    config = hub.repositories["owner/edge"] / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 48'))
    with refused(PairError, key="pair", got={"embedding width": "32 | 48"}):
        load(CLOUD, ModelRef("owner/edge"))
    assert not [name for name in hub.fetched if name.endswith(".safetensors")]


def test_a_repository_of_a_denoiser_alone(hub: Hub) -> None:
    whole = load(CLOUD, ModelRef("owner/edge"))
    hub.repositories["owner/unet"] = hub.repositories["owner/edge"] / "unet"
    for edge in (ModelRef("owner/unet"), ModelRef("owner/edge", subfolder="unet", revision="v1")):
        alone = load(CLOUD, edge)
        assert weights(alone).equal(weights(whole))
        assert alone.spec.edge == replace(
            edge, fingerprint=whole.spec.edge.fingerprint, tensors=whole.spec.edge.tensors
        )


def test_without_a_network_half_a_download_is_one_line(hub: Hub) -> None:
    spec = load(CLOUD, ModelRef("owner/edge")).spec
    (hub.folder("owner/edge") / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub.reachable = False
    with refused(PairError, key="owner/edge"):
        load(spec.cloud, spec.edge)
