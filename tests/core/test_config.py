"""The YAML: read back as written, by hand, from an old version, and refused with one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.config import FORMAT_VERSION
from ecdiff_core.errors import ConfigError, ECDiffError, OutputError, ParamsError
from ecdiff_core.front import FrontRow
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_tune.data.conf_folder import config_folder

from ..refusals import refused

GOLDEN = Path(__file__).parent / "data" / "v1.yaml"
GOLDEN_2 = Path(__file__).parent / "data" / "v2.yaml"
GOLDEN_3 = Path(__file__).parent / "data" / "v3.yaml"
GOLDEN_4 = Path(__file__).parent / "data" / "v4.yaml"
MINIMAL = """
format_version: 1
pair:
  name: mine
  cloud: {id: owner/cloud}
  edge: {id: ./edge}
params: {p: 7, k: 2, alpha: 0.3, s: 34}
sampling: {num_inference_steps: 50}
"""
FULL = TunedConfig(
    pair=PairSpec("mine", ModelRef("owner/cloud", "main", "0123456789abcdef"), ModelRef("./edge")),
    params=ECDiffParams(p=7, k=2, alpha=0.3, s=34),
    sampling=Sampling(
        50, "UniPCMultistepScheduler", 5.5, 512, 768, 1, "bfloat16", "exact", "matched", "reuse"
    ),
    score={
        "quality": 0.91,
        "burden": None,
        "quality_ci95": [0.9, 0.92],
        "objective_ci95": [0.8, 0.82],
        "calls": {"cloud": 16},
    },
    provenance={"study": "default", "seeds": {"first": 0, "last": 99}},
)


def changed(path: str, value: object) -> str:
    """The minimal YAML with another value at a dotted path; ``...`` takes the key out."""
    tree: dict[str, Any] = yaml.safe_load(MINIMAL)
    *folders, key = path.split(".")
    place = tree
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return yaml.safe_dump(tree)


def without_comments(text: str) -> list[str]:
    """The lines of a YAML, whose comments are free to change."""
    return [line.partition("  # ")[0] for line in text.splitlines()]


@pytest.mark.parametrize("config", [FULL, replace(FULL, score=None, provenance=None)], ids=["full", "bare"])
def test_reads_back_what_it_wrote(config: TunedConfig, tmp_path: Path) -> None:
    assert TunedConfig.from_yaml(config.to_yaml()) == config
    config.save(tmp_path / "new" / "folder" / "ecdiff.yaml")
    assert TunedConfig.load(tmp_path / "new" / "folder" / "ecdiff.yaml") == config
    assert TunedConfig.load(str(tmp_path / "new" / "folder" / "ecdiff.yaml")) == config


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1)


@given(
    name=PRINTABLE,
    model=st.builds(ModelRef, PRINTABLE, st.none() | PRINTABLE, st.none() | PRINTABLE),
    alpha=st.floats(0, 1, exclude_min=True),
    guidance_scale=st.floats(0, 1e6),
)
def test_reads_back_any_names_and_numbers(
    name: str, model: ModelRef, alpha: float, guidance_scale: float
) -> None:
    config = TunedConfig(
        PairSpec(name, model, ModelRef("edge")),
        ECDiffParams(7, 2, alpha, 34),
        Sampling(guidance_scale=guidance_scale),
        provenance={"study": name, "scheduler": name},
    )
    assert TunedConfig.from_yaml(config.to_yaml()) == config


def test_reads_back_a_long_folder_with_spaces(tmp_path: Path) -> None:
    long = ModelRef("/a folder/" + "with many words in its name " * 8 + ": and # signs/cloud")
    config = replace(FULL, pair=replace(FULL.pair, cloud=long))
    assert TunedConfig.from_yaml(config.to_yaml()) == config


def test_every_key_that_inference_reads_has_a_comment() -> None:
    lines = [line for line in FULL.to_yaml().partition("score:")[0].splitlines() if not line.endswith(":")]
    bare = [line.strip() for line in lines if "  # " not in line]
    assert bare == ["name: mine"]


def test_written_yaml_is_in_order_and_leaves_out_what_is_not_there() -> None:
    assert list(yaml.safe_load(FULL.to_yaml())) == [
        "format_version",
        "pair",
        "params",
        "sampling",
        "score",
        "provenance",
    ]
    bare = replace(FULL, score=None, provenance=None)
    assert list(yaml.safe_load(bare.to_yaml())) == ["format_version", "pair", "params", "sampling"]


def test_minimal_yaml_by_hand() -> None:
    config = TunedConfig.from_yaml(MINIMAL)
    assert config == TunedConfig(
        PairSpec("mine", ModelRef("owner/cloud"), ModelRef("./edge")),
        ECDiffParams(7, 2, 0.3, 34),
        Sampling(num_inference_steps=50),
    )
    assert (config.sampling.scheduler, config.sampling.handoff) == ("DDIMScheduler", "aligned")
    assert config.plan().schedule == "7C" + "2A1C" * 9 + "16E"


def test_golden_v1_loads_forever() -> None:
    config = TunedConfig.load(GOLDEN)
    assert config.pair == PairSpec(
        "sd14_bksdm_small",
        ModelRef(
            "CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b", "0f3c1d5a9b7e2468"
        ),
        ModelRef("nota-ai/bk-sdm-small"),
    )
    assert config.params == ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    assert config.sampling == Sampling(
        50, "DPMSolverMultistepScheduler", 7.5, 512, None, None, "float16", "exact", "identity", "reuse"
    )
    assert config.score is not None
    assert config.score["calls"] == {"cloud": 16, "approximated": 18, "edge": 16}
    assert config.provenance == {
        "study": "default",
        "search": "greedy",
        "created": "2025-07-15T08:00:00+00:00",
    }
    assert config.format_version == 1


def test_golden_v2_loads_forever() -> None:
    config = TunedConfig.load(GOLDEN_2)
    assert config.format_version == 2
    assert (config.pair.cloud.tensors, config.pair.edge.tensors) == ("9d7c0a4be1f25386", "41b8e60d2fa3975c")
    assert config.pair.edge.fingerprint is None
    assert config.params == ECDiffParams(p=8, k=1, alpha=0.5, s=34)
    assert config.sampling == Sampling(
        50, "EulerDiscreteScheduler", 5.0, 1024, 1024, dtype="float16", estimator="secant"
    )
    assert config.scheduler_config is not None
    assert len(config.scheduler_config) == 17
    assert config.scheduler_config["timestep_spacing"] == "leading"
    assert config.scheduler_config["trained_betas"] is None
    assert config.score == {"quality": 0.9137}


def test_golden_v3_loads_forever() -> None:
    config = TunedConfig.load(GOLDEN_3)
    values = {"threshold": 0.08, "max_skip_steps": 3, "retention_ratio": 0.2}
    assert config.method == MethodChoice("mag_cache", {**values, "mag_ratios": (1.0, 0.97, 0.98, 1.02)})
    assert config.plan().schedule == "4C"
    assert without_comments(config.to_yaml()) == without_comments(GOLDEN_3.read_text("utf-8"))[1:]


def test_golden_v4_loads_forever() -> None:
    config = TunedConfig.load(GOLDEN_4)
    assert config.front == (
        FrontRow(ECDiffParams(p=2, k=1, alpha=0.3, s=4), 0.81, 0.4, handoff_adapter="matched"),
        FrontRow(ECDiffParams.scheduled([0, 1, 4], 0.5, 6), 0.93, 0.7, estimator="secant"),
    )
    assert without_comments(config.to_yaml()) == without_comments(GOLDEN_4.read_text("utf-8"))[1:]


def test_a_row_of_the_front_is_a_config_of_its_own() -> None:
    config = TunedConfig.load(GOLDEN_4)
    assert config.front is not None
    matched, secant = (config.of_row(row) for row in config.front)
    assert (matched.sampling.estimator, matched.sampling.handoff_adapter) == ("gradient", "matched")
    assert (secant.sampling.estimator, secant.sampling.handoff_adapter) == ("secant", "identity")
    assert (matched.plan().schedule, secant.plan().schedule) == ("2C1A1C5E", "2C2A1C1A3E")
    assert (secant.format_version, secant.front, secant.score) == (1, None, {"quality": 0.93, "seconds": 0.7})
    with refused(ParamsError, key="front"):
        replace(config, front=())
    with refused(ParamsError, line="s=40"):
        replace(config, front=(FrontRow(ECDiffParams.hybrid(40), 0.9, 1.0),))
    with refused(ParamsError, key="front.quality"):
        FrontRow(ECDiffParams.hybrid(4), 1.5, 1.0)
    with refused(ConfigError, line="Missing front.*quality"):
        TunedConfig.from_yaml(changed("front", [{"params": {"p": 0, "k": 0, "alpha": 1.0, "s": 4}}]))


def test_the_version_follows_from_what_a_config_holds() -> None:
    assert FULL.format_version == 1
    known = replace(FULL.pair.cloud, tensors="0123456789abcdef")
    for newer in (
        replace(FULL, scheduler_config={"timestep_spacing": "trailing"}),
        replace(FULL, pair=replace(FULL.pair, cloud=known)),
        replace(FULL, pair=replace(FULL.pair, edge=known)),
    ):
        assert newer.format_version == 2
        assert TunedConfig.from_yaml(newer.to_yaml()) == newer
        assert newer.to_yaml().startswith("format_version: 2")
    assert "tensors" not in FULL.to_yaml()
    assert "scheduler_config" not in FULL.to_yaml()


def test_golden_is_what_is_written_today_and_optional_keys() -> None:
    """Should a key go or change: raise FORMAT_VERSION, keep these files, and add a golden of the new one."""
    assert FORMAT_VERSION == 4
    assert (
        without_comments(TunedConfig.load(GOLDEN_2).to_yaml())
        == without_comments(GOLDEN_2.read_text("utf-8"))[1:]
    )
    written = yaml.safe_load(TunedConfig.load(GOLDEN).to_yaml())
    assert written["sampling"].pop("use_dynamic_cfg") is False
    assert written == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("value", [0, "yes", None])
def test_what_is_no_truth_value(value: object) -> None:
    with refused(ConfigError, key="sampling.use_dynamic_cfg", got=value, expected="to be true or false"):
        TunedConfig.from_yaml(changed("sampling.use_dynamic_cfg", value))


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("parms", {}, "params"),
        ("params.aplha", 0.3, "alpha"),
        ("sampling.guidance", 7.5, "guidance_scale"),
        ("pair.cloud.fingerprnt", "x", "fingerprint"),
        ("pair.lora", [{"path": "x", "wieght": 1}], "weight"),
    ],
)
def test_refuses_unknown_keys(path: str, value: object, nearest: str) -> None:
    key = f"{path}[0].wieght" if isinstance(value, list) else path
    with refused(ConfigError, key=key, nearest=nearest, source=f"my.yaml: Unknown key {key}: "):
        TunedConfig.from_yaml(changed(path, value), "my.yaml")


@pytest.mark.parametrize("path", ["pair", "pair.edge", "pair.edge.id", "params.alpha"])
def test_refuses_missing_keys(path: str) -> None:
    with refused(ConfigError, key=path, source=f"my.yaml: Missing {path}."):
        TunedConfig.from_yaml(changed(path, ...), "my.yaml")


@pytest.mark.parametrize("version", [..., 5, 0, "1", True, False])
def test_refuses_versions(version: object) -> None:
    got = None if version is ... else version
    advice = "A newer file needs a newer ecdiff."
    with refused(ConfigError, key="format_version", got=got, expected="4 or an older one", advice=advice):
        TunedConfig.from_yaml(changed("format_version", version), "my.yaml")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("params.p", 7.5, "to be a whole number or null"),
        ("params.p", "7", "to be a whole number or null"),
        ("params.k", True, "to be a whole number or null"),
        ("params.s", None, "to be a whole number"),
        ("params.alpha", "3e-1", "to be a number"),
        ("params.alpha", [0.3], "to be a number"),
        ("params.schedule", 3, "to be a list or null"),
        ("sampling.height", "64", "to be a whole number or null"),
        ("sampling.scheduler", 3, "to be text"),
        ("pair.name", 5, "to be text"),
        ("pair.cloud.revision", 5, "to be text or null"),
        ("pair.cloud", "owner/cloud", "to hold keys"),
        ("pair.lora", "x", "to be a list"),
        ("params", [7, 2, 0.3, 34], "to hold keys"),
        ("sampling", None, "to hold keys"),
        ("score", 5, "to be a mapping or null"),
        ("provenance", ["a"], "to be a mapping or null"),
    ],
)
def test_refuses_types(path: str, value: object, expected: str) -> None:
    with refused(ConfigError, key=path, got=value, expected=expected, source="my.yaml: "):
        TunedConfig.from_yaml(changed(path, value), "my.yaml")


@pytest.mark.parametrize(
    ("path", "value", "error", "about"),
    [
        ("params.alpha", 0, ParamsError, {"expected": "0 < alpha <= 1"}),
        ("params.alpha", float("nan"), ParamsError, {"expected": "to be a number, 0 < alpha <= 1"}),
        ("params.p", 40, ParamsError, {"got": {"p": 40, "s": 34}, "expected": "<= s"}),
        ("params.p", 1, ParamsError, {"expected": ">= 2 when k >= 1"}),
        ("params.k", -1, ParamsError, {"got": -1, "expected": "to be a whole number >= 0"}),
        ("params.s", 51, ParamsError, {"got": {"s": 51, "num_inference_steps": 50}}),
        ("sampling.dtype", "float61", ParamsError, {"nearest": "float16"}),
        ("sampling.estimator", "resue", ConfigError, {"nearest": "reuse"}),
    ],
)
def test_refuses_values(path: str, value: object, error: type[ECDiffError], about: dict[str, Any]) -> None:
    with refused(error, key=path.partition(".")[2], source="my.yaml: ", **about):
        TunedConfig.from_yaml(changed(path, value), "my.yaml")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_inference_steps", 2.5, "to be a whole number"),
        ("num_inference_steps", "many", "to be a whole number"),
        ("height", "tall", "to be a whole number or null"),
        ("guidance_scale", "high", "to be a number"),
        ("use_dynamic_cfg", "maybe", "to be true or false"),
    ],
)
def test_refuses_types_of_arguments(name: str, value: Any, expected: str) -> None:
    with refused(ConfigError, key=name, got=value, expected=expected):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_inference_steps", 0, ">= 1"),
        ("guidance_scale", -1, ">= 0"),
        ("guidance_scale", float("nan"), "to be a finite number"),
        ("guidance_scale", float("inf"), "to be a finite number"),
        ("handoff", "exakt", ["aligned", "exact"]),
        ("handoff", ["exact"], ["aligned", "exact"]),
        ("handoff_adapter", "mached", ["identity", "matched"]),
    ],
)
def test_refuses_sampling_settings(name: str, value: Any, expected: object) -> None:
    with refused(ParamsError, key=f"sampling.{name}", expected=expected, source="my.yaml: "):
        TunedConfig.from_yaml(changed(f"sampling.{name}", value), "my.yaml")
    with refused(ParamsError, key=name, expected=expected):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", {"got": None}),
        ("# nothing\n", {"got": None}),
        ("just words", {"got": "just words", "expected": "a mapping"}),
        ("- a\n- b\n", {"got": ["a", "b"], "expected": "a mapping"}),
        ("a: [1,\nb: }", {}),
        ("format_version: !!python/object:os.system {}", {}),
        ("a: \x00", {}),
        ("a: [1\n", {"line": r"line 2, column 1: expected ',' or '\]', but got"}),
        ("stage,p,k\n" * 99, {"expected": "a mapping", "line": r"'stage,p,k (stage,p,k ){4}stage,p,k…\.$"}),
        ("? [a, b]\n: 1", {}),
        ("format_version: 1\n7: x", {"key": "7", "got": "x"}),
        ("params:\n  p: 3\n  alpha: 0.3\n  alpha: 0.9\n", {"line": "alpha .* line 3 and in line 4"}),
        ("pair: {name: a, name: b}", {"line": "name .* line 1 and in line 1"}),
        ("format_version: 1\nformat_version: 1", {"line": "format_version .* line 1 and in line 2"}),
    ],
)
def test_refuses_what_is_no_config(text: str, about: dict[str, Any]) -> None:
    with refused(ConfigError, **{"key": "my.yaml", **about}, source="my.yaml"):
        TunedConfig.from_yaml(text, "my.yaml")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "it is not text"),
    ],
    ids=["missing", "folder", "binary"],
)
def test_refuses_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "ecdiff.yaml"
    make(path)
    with refused(ConfigError, key=path, line=reason):
        TunedConfig.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ecdiff.yaml"
    FULL.save(path)
    unwritable = replace(FULL, provenance={"study": object()})
    with pytest.raises(yaml.YAMLError):
        unwritable.save(path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("write_text", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, full_disk)
            with refused(OutputError, key=path, line="No space left"):
                replace(FULL, params=ECDiffParams.edge_only()).save(path)
    assert TunedConfig.load(path) == FULL
    assert [file.name for file in tmp_path.iterdir()] == ["ecdiff.yaml"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "ecdiff.yaml"
    FULL.save(path)
    other = replace(FULL, params=ECDiffParams.hybrid(40))
    other.save(path)
    assert TunedConfig.load(path) == other


def test_is_a_value() -> None:
    assert copy.deepcopy(FULL) == FULL
    assert replace(FULL, params=ECDiffParams.edge_only()) != FULL


TABLE_5 = {
    "sd14_bksdm_small": (16, 18, 16),
    "sd14_bksdm_tiny": (17, 20, 13),
    "sdxl_ssd1b": (10, 20, 20),
    "sdxl_vega": (11, 25, 14),
    "cogvideox_5b_2b": (17, 21, 12),
}
"""Cloud calls, approximated steps and edge calls of the paper's rows."""


@pytest.mark.parametrize("name", TABLE_5)
def test_the_papers_rows_are_shipped(name: str) -> None:
    path = config_folder() / "tuned" / f"{name}.yaml"
    config = TunedConfig.load(path)
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    assert first.startswith("# ")
    assert text == config.to_yaml()
    plan = config.plan()
    assert (plan.cloud_calls, plan.approximated, plan.edge_calls) == TABLE_5[name]
    assert plan.handoff_step == config.params.s
    assert config.score is None
    assert config.provenance is not None
    assert "not measured by this project" in config.provenance["source"]


def test_configs_that_come_with_the_package_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TunedConfig.load("shapes")
    assert config.pair.cloud.id == "embedded:shapes/cloud"
    assert config.score is not None
    assert config.plan().cloud_calls < config.sampling.num_steps
    (tmp_path / "shapes").mkdir()  # where somebody trains the pair, say
    assert TunedConfig.load("shapes") == config
    (tmp_path / "shapes").rmdir()
    (tmp_path / "shapes").write_text("mine")  # a file of that name comes first
    with refused(ConfigError, key="shapes", got="mine", expected="a mapping"):
        TunedConfig.load("shapes")
