"""``check``: what is printed of two models, and the exit status."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from huggingface_hub.errors import LocalEntryNotFoundError

from ecdiff_core.models import hub
from ecdiff_core.models.pair_files import ONE_MODEL

from ..studies import Command, Outcome, refuses


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


def check(command: Command, pair: Path, tmp_path: Path, *settings: str) -> Outcome:
    models = (f"pair.cloud={pair / 'cloud'}", f"pair.edge={pair / 'edge'}")
    return command("check", "pair=custom", *models, f"output_dir={tmp_path / 'outputs'}", *settings)


def test_two_that_fit(command: Command, own_pair: Path, tmp_path: Path) -> None:
    outcome = check(command, own_pair, tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[-1] == "These two can work together."
    (row,) = [line for line in lines if line.startswith("noise schedule")]
    assert row.split("  ")[-1] == "ok"
    assert row.count("scaled_linear 0.00085 … 0.012") == 2
    unet = own_pair / "cloud" / "unet" / "diffusion_pytorch_model.safetensors"
    parameters = UNet2DConditionModel.from_pretrained(unet.parent).num_parameters()
    (row,) = [line for line in lines if line.startswith("cloud unet")]
    assert row.split() == [
        *(
            "cloud",
            "unet",
            f"{parameters / 1e6:.2f}",
            "M",
            f"{unet.stat().st_size / 1e6:.1f}",
            "MB",
            unet.name,
        )
    ]
    assert [line.split()[1] for line in lines if line.startswith(("cloud ", "edge "))][2:] == [
        *("unet", "vae", "text_encoder", "unet")
    ]


@pytest.mark.parametrize(
    ("setting", "about"),
    [
        ("sampling.scheduler=EDMEulerScheduler", {"key": "scheduler", "got": "EDMEulerScheduler"}),
        ("sampling.num_inference_steps=1001", {"key": "num_inference_steps", "got": 1001}),
    ],
)
def test_a_scheduler_that_does_not_fit(
    command: Command, own_pair: Path, tmp_path: Path, setting: str, about: dict[str, Any]
) -> None:
    refuses(check(command, own_pair, tmp_path, setting), **about)


def test_weights_that_are_missing(command: Command, own_pair: Path, tmp_path: Path) -> None:
    """What ``tune`` would say."""
    for weights in own_pair.rglob("*.safetensors"):
        weights.unlink()
    refuses(check(command, own_pair, tmp_path), key=own_pair / "cloud" / "unet", got=[])


def test_a_variant_is_said(command: Command, own_pair: Path, tmp_path: Path) -> None:
    for path in list((own_pair / "edge").rglob("*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))
    outcome = check(command, own_pair, tmp_path)
    note = f"note: the edge's weights are the variant fp16: there are no plain ones in {own_pair / 'edge'}"
    assert note in outcome.out.splitlines()
    models = (f"pair.cloud={own_pair / 'cloud'}", f"pair.edge={own_pair / 'edge'}")
    outcome = command("check", "pair=custom", *models, "pair.variant=fp16", f"output_dir={tmp_path / 'o'}")
    refuses(outcome, key="variant", got="fp16")
    outcome = command(
        "check", "pair=custom", *models, "pair.edge_variant=fp16", f"output_dir={tmp_path / 'o'}"
    )
    assert outcome.status == 0
    assert "note:" not in outcome.out


@pytest.mark.parametrize("name", ["check", "tune"])
def test_one_model_for_both(command: Command, own_pair: Path, tmp_path: Path, name: str) -> None:
    shutil.rmtree(own_pair / "edge")
    shutil.copytree(own_pair / "cloud", own_pair / "edge")
    models = (f"pair.cloud={own_pair / 'cloud'}", f"pair.edge={own_pair / 'edge'}")
    outcome = command(name, "pair=custom", *models, "device=cpu", f"output_dir={tmp_path / 'outputs'}")
    refuses(outcome, key="pair.edge", line=ONE_MODEL)


def test_two_that_are_swapped(command: Command, own_pair: Path, tmp_path: Path) -> None:
    (own_pair / "cloud").rename(own_pair / "larger")
    (own_pair / "edge").rename(own_pair / "cloud")
    (own_pair / "larger").rename(own_pair / "edge")
    outcome = check(command, own_pair, tmp_path)
    assert outcome.status == 0
    (note,) = [line for line in outcome.out.splitlines() if line.startswith("note: ")]
    assert re.fullmatch(
        r"note: the edge is larger than the cloud \([\d.]+ M parameters, [\d.]+ M\): are the two swapped\?",
        note,
    )
    assert "probably swapped" in outcome.out.splitlines()[-1]
    assert "pair.cloud and pair.edge" in outcome.out.splitlines()[-1]


def test_two_that_need_a_matched_handoff(command: Command, own_pair: Path, tmp_path: Path) -> None:
    path = own_pair / "edge" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scaling_factor": 0.5}))
    outcome = check(command, own_pair, tmp_path)
    assert outcome.status == 0
    assert "convertible  with sampling.handoff_adapter=matched" in outcome.out
    assert outcome.out.splitlines()[-1] == (
        "These two can work together with sampling.handoff_adapter=matched."
    )


def test_two_that_cannot_do_without_a_matched_handoff(
    command: Command, own_pair: Path, tmp_path: Path
) -> None:
    path = own_pair / "edge" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    outcome = check(command, own_pair, tmp_path)
    assert outcome.status == 0
    assert "convertible  refused with identity: set sampling.handoff_adapter=matched" in outcome.out
    assert outcome.out.splitlines()[-1] == (
        "These two can work together, but only with sampling.handoff_adapter=matched."
    )


def test_two_that_do_not_fit(command: Command, own_pair: Path, tmp_path: Path) -> None:
    path = own_pair / "edge" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cross_attention_dim": 48}))
    outcome = check(command, own_pair, tmp_path)
    assert "refused  the edge cannot take the cloud's embeddings" in outcome.out
    refuses(outcome, key="pair", got=["embedding width"])


def test_a_part_that_is_missing(command: Command, own_pair: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_pair / "cloud" / "tokenizer")
    shutil.rmtree(own_pair / "edge" / "tokenizer")  # of the edge nothing but the denoiser is loaded
    outcome = check(command, own_pair, tmp_path)
    assert (outcome.status, outcome.out) == (2, "")
    missing = own_pair / "cloud" / "tokenizer"
    assert outcome.err == f"error: Missing {missing}: the model folder is not complete.\n"


def test_a_hub_id_without_a_network(
    command: Command, tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline\nand more")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    outcome = command("check", "pair=sd14_bksdm_small", f"output_dir={tmp_path / 'outputs'}")
    name = "CompVis/stable-diffusion-v1-4"
    refuses(outcome, key=name, advice=re.compile(f"`hf download {name} --revision main`"))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n"


@pytest.mark.parametrize(
    ("file", "damage", "about"),
    [
        (
            "cloud/unet",
            lambda path: path.write_text(POINTER),
            {"got": "git-lfs pointer", "advice": re.compile("`git lfs pull`")},
        ),
        ("edge/unet", lambda path: path.write_text(POINTER), {"got": "git-lfs pointer"}),
        (
            "cloud/vae",
            lambda path: path.write_bytes(path.read_bytes()[:-4]),
            {"expected": re.compile(r"^\d+$")},
        ),
        ("edge/unet", lambda path: path.write_bytes(path.read_bytes()[:100]), {"line": "header"}),
        ("cloud/text_encoder", lambda path: path.write_bytes(b""), {"line": "empty"}),
        (
            "edge/unet",
            lambda path: (path.unlink(), path.symlink_to("../../blobs/0")),
            {"line": "No such file"},
        ),
        ("cloud/unet", lambda path: (path.unlink(), path.mkdir()), {"line": "Is a directory"}),
    ],
)
def test_files_that_are_not_whole(
    command: Command,
    own_pair: Path,
    tmp_path: Path,
    file: str,
    damage: Callable[[Path], object],
    about: dict[str, Any],
) -> None:
    path = next((own_pair / file).glob("*.safetensors"))
    damage(path)
    refuses(check(command, own_pair, tmp_path), key=path, **about)


def test_a_tokenizer_that_is_a_pointer(command: Command, own_pair: Path, tmp_path: Path) -> None:
    path = own_pair / "cloud" / "tokenizer" / "tokenizer.json"
    path.write_text(POINTER)
    refuses(check(command, own_pair, tmp_path), key=path, got="git-lfs pointer")


@pytest.mark.parametrize(
    "name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "DDIMInverseScheduler"]
)
def test_a_folder_s_scheduler_for_other_models(
    command: Command, own_pair: Path, tmp_path: Path, name: str
) -> None:
    for side in ("cloud", "edge"):
        path = own_pair / side / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({"_class_name": name}))
    outcome = check(command, own_pair, tmp_path, f"sampling.scheduler={name}")
    refuses(outcome, key="scheduler", got=name)
