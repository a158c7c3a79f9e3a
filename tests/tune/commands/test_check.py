"""``check``: what is printed of two models, and the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ecdiff_core import find

from ..studies import Command, Outcome


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


def check(command: Command, pair: Path, tmp_path: Path) -> Outcome:
    models = (f"pair.cloud={pair / 'cloud'}", f"pair.edge={pair / 'edge'}")
    return command("check", "pair=custom", *models, f"output_dir={tmp_path / 'outputs'}")


def test_two_that_fit(command: Command, own_pair: Path, tmp_path: Path) -> None:
    for weights in own_pair.rglob("*.safetensors"):
        weights.unlink()  # configs are enough
    outcome = check(command, own_pair, tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[-1] == "These two can work together."
    (row,) = [line for line in lines if line.startswith("noise schedule")]
    assert row.split("  ")[-1] == "ok"
    assert row.count("scaled_linear 0.00085 … 0.012") == 2


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
    assert outcome.status == 2
    assert "refused  the edge cannot take the cloud's embeddings" in outcome.out
    assert outcome.err == (
        "error: These two cannot work together: embedding width. Choose another edge model.\n"
    )


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

    monkeypatch.setattr(find, "snapshot_download", offline)
    outcome = command("check", "pair=sd14_bksdm_small", f"output_dir={tmp_path / 'outputs'}")
    assert outcome.status == 2
    assert outcome.err.startswith("error: Cannot get CompVis/stable-diffusion-v1-4: ")
    assert "`hf download CompVis/stable-diffusion-v1-4 --revision main`" in outcome.err
    assert outcome.err.count("\n") == 1
