"""What is told of two model folders before their weights are read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ecdiff_core.errors import PairError
from ecdiff_core.models.compatibility import Row, Verdict, compare, refusals
from ecdiff_core.models.families import FAMILIES

from ...refusals import refused

FAMILY = FAMILIES["StableDiffusionPipeline"]


@pytest.fixture
def own_pair(tiny_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair, tmp_path / "pair"))


def set_keys(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rows_of(pair: Path) -> dict[str, Row]:
    return {row.name: row for row in compare(pair / "cloud", pair / "edge", FAMILY)}


def test_a_pair_made_for_each_other(tiny_pair: Path) -> None:
    rows = rows_of(tiny_pair)
    assert {row.verdict for row in rows.values()} == {Verdict.OK}
    assert (rows["prediction type"].cloud, rows["embedding width"].edge) == ("epsilon", "32")
    assert rows["noise schedule"].cloud == "scaled_linear 0.00085 … 0.012"
    assert refusals(list(rows.values())) == []


@pytest.mark.parametrize(
    ("file", "values", "name"),
    [
        ("edge/scheduler/scheduler_config.json", {"beta_end": 0.02}, "noise schedule"),
        ("edge/scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "noise schedule"),
        ("edge/vae/config.json", {"scaling_factor": 0.5}, "latent scaling"),
    ],
)
def test_what_a_matched_handoff_converts(
    own_pair: Path, file: str, values: dict[str, Any], name: str
) -> None:
    set_keys(own_pair / file, **values)
    rows = rows_of(own_pair)
    assert rows[name].verdict is Verdict.CONVERTIBLE
    assert rows[name].why == "with sampling.handoff_adapter=matched"
    assert [row.name for row in rows.values() if row.verdict is not Verdict.OK] == [name]


def test_an_edge_of_another_trained_size(own_pair: Path) -> None:
    set_keys(own_pair / "edge/unet/config.json", sample_size=16)
    row = rows_of(own_pair)["trained size"]
    assert (row.cloud, row.edge, row.verdict) == ("8", "16", Verdict.OK)
    assert row.why == "both make the cloud's, or what sampling.height and width say"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"prediction_type": "v_prediction"}, "prediction type"),
        ({"num_train_timesteps": 500}, "noise schedule"),
    ],
)
def test_what_only_a_matched_handoff_makes_possible(
    own_pair: Path, values: dict[str, Any], name: str
) -> None:
    set_keys(own_pair / "edge/scheduler/scheduler_config.json", **values)
    rows = rows_of(own_pair)
    assert rows[name].verdict is Verdict.CONVERTIBLE
    assert rows[name].why == "refused with identity: set sampling.handoff_adapter=matched"
    assert [row.name for row in rows.values() if row.verdict is not Verdict.OK] == [name]


@pytest.mark.parametrize(
    ("file", "values", "name"),
    [
        ("edge/unet/config.json", {"in_channels": 8}, "latent channels"),
        ("edge/unet/config.json", {"cross_attention_dim": 48}, "embedding width"),
        ("edge/vae/config.json", {"latent_channels": 16}, "autoencoder's channels"),
        ("edge/vae/config.json", {"shift_factor": 0.1}, "latent scaling"),
        ("edge/text_encoder/config.json", {"num_hidden_layers": 3}, "text_encoder"),
    ],
)
def test_what_nothing_mends_is_refused(own_pair: Path, file: str, values: dict[str, Any], name: str) -> None:
    set_keys(own_pair / file, **values)
    rows = rows_of(own_pair)
    assert rows[name].verdict is Verdict.REFUSED
    assert any(phrase.startswith(name) for phrase in refusals(list(rows.values())))


def test_an_edge_of_a_denoiser_alone(own_pair: Path) -> None:
    for part in ("vae", "text_encoder", "scheduler"):
        shutil.rmtree(own_pair / "edge" / part)
    rows = rows_of(own_pair)
    assert {row.verdict for row in rows.values()} == {Verdict.OK}
    assert rows["noise schedule"].edge == rows["text_encoder"].edge == "none"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config(own_pair: Path, text: str) -> None:
    (own_pair / "edge" / "vae" / "config.json").write_text(text)
    with refused(PairError, key=own_pair / "edge" / "vae" / "config.json"):
        rows_of(own_pair)


def test_an_unknown_scheduler(own_pair: Path) -> None:
    set_keys(own_pair / "cloud/scheduler/scheduler_config.json", _class_name="NoScheduler")
    with refused(PairError, key=own_pair / "cloud" / "scheduler", got="NoScheduler"):
        rows_of(own_pair)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"beta_schedule": "sigmoid"}, "NotImplementedError: sigmoid is not implemented"),
        ({"beta_start": "small"}, "TypeError: "),
        (
            {"_class_name": "DPMSolverSDEScheduler", "use_beta_sigmas": True, "use_karras_sigmas": True},
            "Error: ",
        ),
    ],
)
def test_settings_that_a_scheduler_cannot_do_with(
    own_pair: Path, values: dict[str, Any], reason: str
) -> None:
    set_keys(own_pair / "cloud/scheduler/scheduler_config.json", **values)
    with refused(PairError, key=re.compile(r"cloud/scheduler/scheduler_config\.json$"), line=reason):
        rows_of(own_pair)


def test_what_is_no_scheduler(own_pair: Path) -> None:
    set_keys(own_pair / "cloud/scheduler/scheduler_config.json", _class_name="UNet2DModel")
    with refused(PairError, key=own_pair / "cloud" / "scheduler", got="UNet2DModel"):
        rows_of(own_pair)


@pytest.mark.parametrize("edge", ["FlowMatchEulerDiscreteScheduler", "CMStochasticIterativeScheduler"])
def test_edm_is_no_flow_matching(own_pair: Path, edge: str) -> None:
    """Neither has betas, by which flow matching was told."""
    for side, name in (("cloud", "EDMEulerScheduler"), ("edge", edge)):
        path = own_pair / side / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({"_class_name": name}))
    rows = rows_of(own_pair)
    assert rows["noise schedule"].cloud == "EDM, sigma 0.002 … 80.0, data 0.5"
    assert any(rows[name].verdict is Verdict.REFUSED for name in ("noise schedule", "prediction type"))


def test_betas_that_have_no_beginning_in_the_config(own_pair: Path) -> None:
    for side in ("cloud", "edge"):
        path = own_pair / side / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({"_class_name": "UnCLIPScheduler"}))
    assert rows_of(own_pair)["noise schedule"].cloud == "squaredcos_cap_v2"


def test_flow_matching_by_another_solver_is_flow_matching(own_pair: Path) -> None:
    flow = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}
    for side, tree in (("cloud", flow), ("edge", {"_class_name": "FlowMatchEulerDiscreteScheduler"})):
        (own_pair / side / "scheduler/scheduler_config.json").write_text(json.dumps(tree))
    rows = rows_of(own_pair)
    assert rows["noise schedule"] == Row("noise schedule", "rectified flow", "rectified flow", Verdict.OK)
    assert rows["prediction type"] == Row("prediction type", "flow", "flow", Verdict.OK)


def test_what_a_config_leaves_out_is_the_classes_default(own_pair: Path) -> None:
    for side, shown in (("cloud", False), ("edge", True)):
        for part, key, default in (
            ("vae", "scaling_factor", 0.18215),
            ("unet", "out_channels", 4),
            ("text_encoder", "vocab_size", 49408),
        ):
            path = own_pair / side / part / "config.json"
            tree = json.loads(path.read_text())
            tree.pop(key)
            path.write_text(json.dumps({**tree, key: default} if shown else tree))
    assert {row.verdict for row in rows_of(own_pair).values()} == {Verdict.OK}
