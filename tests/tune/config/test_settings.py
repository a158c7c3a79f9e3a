"""Every config composes, the promised settings are there, and every bad value is refused in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ecdiff_core.config import ModelRef, PairSpec, Sampling
from ecdiff_core.errors import ConfigError, ECDiffError
from ecdiff_core.models.pair_spec import Lora
from ecdiff_tune import config as settings_module
from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.config import Settings, from_config
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.evaluation.link import Link

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(config_folder().iterdir())
    if folder.is_dir() and folder.name != "tuned"  # configs for inference, not settings
}
CHOICES = [(group, choice) for group, choices in GROUPS.items() for choice in choices]


def composed(*overrides: str, command: str = "tune") -> Settings:
    """The checked settings of a command line."""
    settings_module.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return from_config(compose(config_name=command, overrides=list(overrides)))


def fitted(*overrides: str) -> tuple[Settings, list[str]]:
    """As a command has them, and what is said of the grids."""
    settings_module.register()
    said: list[str] = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(config_name="tune", overrides=list(overrides))
        return from_config(config, overrides, said.append), said


@pytest.mark.parametrize(
    ("steps", "k", "s"),
    [(2, [1], (2,)), (3, [1, 2], (2,)), (4, [1, 2, 3], (2, 3)), (6, [1, 2, 3, 4, 5], (4, 5))],
)
def test_grids_that_nobody_set_fit_the_steps(steps: int, k: list[int], s: tuple[int, ...]) -> None:
    given, said = fitted(f"sampling.num_inference_steps={steps}")
    assert (given.search.k, given.s_values) == (k, s)
    shown = str(k).replace(" ", "")
    assert said == (
        [f"note: search.k={shown}: of its usual values those below {steps}, the number of steps"]
        * (steps < 6)
    )


@pytest.mark.parametrize("steps", range(3, 51))
def test_placing_fits_any_number_of_steps(steps: int) -> None:
    given, _ = fitted("search=schedule", f"sampling.num_inference_steps={steps}")
    assert 3 <= min(given.cloud_calls) <= max(given.cloud_calls) <= max(given.s_values) <= steps


def test_grids_that_somebody_set_are_refused() -> None:
    with pytest.raises(ECDiffError, match=r"Expected search\.k within 0 … 3, got \[1, 5\]"):
        fitted("sampling.num_inference_steps=4", "search.k=[1,5]")
    with pytest.raises(ECDiffError, match=r"Expected sampling\.num_inference_steps >= 2 .*got 1\."):
        fitted("sampling.num_inference_steps=1")
    with pytest.raises(ECDiffError, match="search=schedule places at least 3 cloud calls, got 2 steps"):
        fitted("sampling.num_inference_steps=2", "search=schedule")


def test_the_groups() -> None:
    assert {"pair", "search", "calibration", "objective", "link"} <= set(GROUPS)
    assert "shapes" in GROUPS["pair"]
    assert {"greedy", "exhaustive"} <= set(GROUPS["search"])
    assert {"none", "wifi"} <= set(GROUPS["link"])


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes(group: str, choice: str) -> None:
    models = ["pair.cloud=a", "pair.edge=b"] if choice == "custom" else []
    assert isinstance(composed(f"{group}={choice}", *models, command="tune"), Settings)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    assert isinstance(composed("pair=shapes", "objective=paper", "link=none", command=command), Settings)


def test_a_pair_of_ones_own_needs_its_models() -> None:
    told = r"Missing pair\.cloud, pair\.edge: give pair\.cloud=VALUE pair\.edge=VALUE\."
    with pytest.raises(ECDiffError, match=told):
        composed("pair=custom")


@pytest.mark.parametrize("group", ["search", "pair"])
def test_a_group_that_was_taken_out_is_to_be_chosen(group: str) -> None:
    with pytest.raises(ECDiffError, match=rf": give {group}=NAME\.$"):
        composed(*["pair=shapes"] * (group != "pair"), f"~{group}")


def test_comments_of_settings_are_one_line() -> None:
    """``--help`` shows the line of the setting alone."""
    more = [
        f"{path.name}: {line}"
        for path in config_folder().rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r" {3,}#", line)
    ]
    assert more == []


def test_every_command_has_its_config() -> None:
    assert {path.stem for path in config_folder().glob("*.yaml")} == {"base", *COMMANDS}


def test_the_defaults_are_the_papers() -> None:
    found = composed()
    assert found.num_steps == 50
    assert found.search.k == [1, 2, 3, 4, 5]
    assert found.search.alpha == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert found.s_values == tuple(range(30, 41))
    assert found.earliest_s == 30
    assert (found.objective.w1, found.objective.w2, found.objective.w3) == (0.3, 0.3, 0.4)
    assert found.calibration.num_prompts == 100
    assert found.sampling.handoff == "aligned"
    assert found.core_link() == Link(mbps=18.88)


@pytest.mark.parametrize(
    ("steps", "s_values", "earliest"),
    [(50, range(30, 41), 30), (30, range(18, 25), 18), (12, range(7, 11), 7)],
)
def test_the_grid_of_s_scales_with_the_steps(steps: int, s_values: range, earliest: int) -> None:
    found = composed(f"sampling.num_inference_steps={steps}")
    assert found.s_values == tuple(s_values)
    assert found.earliest_s == earliest


TYPED: dict[str, object] = {
    # The settings that people type, each with another value than its default.
    "study": "mine",
    "params.p": 7,
    "search.k": [1, 2, 3],
    "search.alpha": [0.2, 0.4],
    "search.s": [30, 35, 50],
    "calibration.num_prompts": 20,
    "calibration.file": "prompts.txt",
    "calibration.column": "words",
    "heldout.num_prompts": 0,
    "objective.w1": 0.5,
    "objective.w2": 0.1,
    "objective.w3": 0.2,
    "objective.earliest_s": 25,
    "sampling.num_inference_steps": 45,
    "sampling.guidance_scale": 5.5,
    "sampling.handoff": "exact",
    "latency": "wallclock",
    "device": "cpu",
    "dtype": "bfloat16",
    "resume": False,
    "seed": 3,
}


@pytest.mark.parametrize("key", TYPED)
def test_promised_settings(key: str) -> None:
    value = TYPED[key]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    before = OmegaConf.select(OmegaConf.structured(composed()), key)
    more = ["search.s=[30]"] if key == "sampling.num_inference_steps" else []
    found = OmegaConf.select(OmegaConf.structured(composed(f"{key}={text}", *more)), key)
    assert found == value
    assert before != value


def test_overrides_of_several_groups_at_once() -> None:
    found = composed(
        "pair=shapes",
        "search.k=[1,2,3]",
        "objective.w1=0.5",
        "calibration.num_prompts=20",
        "sampling.num_inference_steps=30",
    )
    assert found.search.k == [1, 2, 3]
    assert found.s_values == tuple(range(18, 25))


def test_what_inference_is_told() -> None:
    found = composed("pair.cloud=a", "pair.edge=b", "pair.edge_revision=v2", "dtype=float16", "link=none")
    assert found.pair_spec() == PairSpec("shapes", ModelRef("a"), ModelRef("b", "v2"))
    assert found.core_sampling() == Sampling(
        num_inference_steps=50, guidance_scale=found.sampling.guidance_scale, dtype="float16"
    )
    assert found.core_link() == Link(mbps=None)


@pytest.mark.parametrize(
    ("overrides", "variants"),
    [
        ([], ("auto", "auto")),
        (["pair.variant=fp16"], ("fp16", "fp16")),
        (["pair.variant=null"], (None, None)),
        (["pair.variant=fp16", "pair.edge_variant=null"], ("fp16", None)),
        (["pair.cloud_variant=non_ema"], ("non_ema", "auto")),
    ],
)
def test_variants_of_cloud_and_edge(overrides: list[str], variants: tuple[str | None, str | None]) -> None:
    spec = composed(*overrides).pair_spec()
    assert (spec.cloud.variant, spec.edge.variant) == variants


def test_weights_as_people_have_them() -> None:
    spec = composed(
        "pair.cloud=/a.safetensors",
        "pair.cloud_config=owner/configs",
        "pair.edge=owner/edge",
        "pair.edge_subfolder=unet",
        "pair.lora=[{path: /l.safetensors, weight: 0.5, on: cloud}, {path: '/with space'}]",
    ).pair_spec()
    assert spec.cloud == ModelRef("/a.safetensors", config="owner/configs")
    assert spec.edge == ModelRef("owner/edge", subfolder="unet")
    assert spec.lora == (Lora("/l.safetensors", 0.5, "cloud"), Lora("/with space", 1.0, "both"))
    with pytest.raises(ConfigError, match=r"Unknown on 'clod' of the LoRA x: choose from"):
        composed("pair.lora=[{path: x, on: clod}]")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sampling.num_inference_steps=0"], "Expected num_inference_steps >= 1, got 0"),
        (["sampling.guidance_scale=-1"], "Expected guidance_scale >= 0, got -1"),
        (["sampling.handoff=alinged"], "Unknown handoff 'alinged': .*did you mean aligned"),
        (["sampling.estimator=gradeint"], "Unknown estimator 'gradeint': .*did you mean gradient"),
        (["dtype=float23"], "Unknown dtype 'float23': .*did you mean float"),
        (["latency=wallclok"], "Unknown latency 'wallclok': .*did you mean wallclock"),
        (["link.mbps=0"], "mbps > 0, got 0"),
        (["link.round_trip_seconds=-0.1"], "round_trip_seconds >= 0, got -0.1"),
        (["calibration.num_prompts=0"], "Expected calibration.num_prompts >= 1, got 0"),
        (["heldout.num_prompts=-1"], "Expected heldout.num_prompts >= 0, got -1"),
        (["batch_size=0"], "Expected batch_size >= 1 or auto, got 0"),
        (["batch_size=most"], "Expected batch_size >= 1 or auto, got most"),
        (["seed=-1"], "Expected seed >= 0, got -1"),
        (["study=a/b"], "Expected study to be a plain folder name, got 'a/b'"),
        (["study=.."], "Expected study to be a plain folder name, got '..'"),
        (["study=reference"], "Expected another study than 'reference': that folder holds all references"),
        (["study=''"], "Expected study to be a plain folder name, got ''"),
        (["params.p=-1"], "Expected params.p to be a whole number >= 0 or auto, got -1"),
        (["params.p=2.5"], "Expected params.p to be a whole number >= 0 or auto, got 2.5"),
        (["params.p=many"], "Expected params.p to be a whole number >= 0 or auto, got 'many'"),
        (["params.p=true"], "Expected params.p to be a whole number >= 0 or auto, got True"),
        (["params.p=31"], "Expected params.p <= every s, got p=31 with s from 30"),
        (["params.k=2", "params.alpha=0"], "Expected 0 < alpha <= 1, got alpha=0"),
        (["params.k=-1", "params.alpha=0.3"], "Expected k to be a whole number >= 0, got -1"),
        (["params.k=2"], "Expected both params.k and params.alpha, or neither"),
        (["search.s=[1,8]"], "Expected every s >= 2, the least p that params.p=auto chooses, got s from 1"),
        (["params.p=1"], "Expected params.p >= 2 when k >= 1 is searched .* got p=1"),
        (["search.k=[]"], "Expected search.k to hold at least one value"),
        (["search.k=[1,2,1]"], r"Expected the values of search.k to differ, got \[1, 2, 1\]"),
        (["search.k=[-1]"], r"Expected search.k within 0 … 49, got \[-1\]"),
        (["search.k=[50]"], r"Expected search.k within 0 … 49, got \[50\]"),
        (["search.alpha=[]"], "Expected search.alpha to hold at least one value"),
        (["search.alpha=[0]"], r"Expected search.alpha within 0 < alpha <= 1, got \[0"),
        (["search.alpha=[0.5,1.1]"], "Expected search.alpha within 0 < alpha <= 1"),
        (["search.alpha=[nan]"], r"Expected search.alpha within 0 < alpha <= 1, got \[nan\]"),
        (["search.s=[]"], "Expected search.s to hold at least one value"),
        (["search.s=[30,51]"], r"Expected search.s within 0 … 50 .* got \[30, 51\]"),
        (["search.s=[-1]"], "Expected search.s within 0 … 50"),
        (["search.s=[30]", "sampling.num_inference_steps=20"], "Expected search.s within 0 … 20"),
        (["objective.earliest_s=50"], "Expected objective.earliest_s within 0 … 49 .* got 50"),
        (["objective.earliest_s=-1"], "Expected objective.earliest_s within 0 … 49 .* got -1"),
        (["objective.w1=nan"], "Expected objective.w1 to be a finite number >= 0, got nan"),
        (
            ["sampling.use_dynamic_cfg=true", "sampling.handoff_adapter=matched"],
            "use_dynamic_cfg takes its scale from the timestep",
        ),
        (
            ["sampling.use_dynamic_cfg=true", "search.handoff_adapter=[identity,matched]"],
            "use_dynamic_cfg takes its scale from the timestep",
        ),
        (["errors.num_prompts=0"], "Expected errors.num_prompts >= 1, got 0"),
        (["errors.noise=[]"], "Expected errors.noise to hold different shares, 0 < share <= 1, got \\[\\]"),
        (["errors.noise=[0.01,2]"], "errors.noise .* got \\[0.01, 2.0\\]"),
        (["errors.noise=[0.01,0.01]"], "errors.noise .* different"),
        (
            ["search.p=[3]"],
            "search.p has no effect with search=greedy: leave it out, or choose another search",
        ),
        (["search=race", "search.p=[3]"], "search.p has no effect with search=race: .* search.joint=true"),
        (["search=race", "search.p=[3]"], "search.p has no effect with search=race"),
        (["search=schedule", "search.p=[3]"], "search.p has no effect .* choose another search"),
        (["search=schedule", "params.p=3"], "params.p has no effect with search=schedule"),
        (["search=race", "search.storage=a"], "search.storage has no effect .* choose search=optuna"),
        (["search=race", "search.extend=true"], "search.extend is for search=greedy and search=exhaustive"),
    ],
)
def test_bad_values(overrides: list[str], told: str) -> None:
    with pytest.raises(ECDiffError, match=told) as caught:
        composed(*overrides)
    assert "\n" not in str(caught.value)


def test_settings_that_have_an_effect_are_taken() -> None:
    assert composed("search=race", "search.joint=true", "search.p=[3,5]").search.p == [3, 5]
    assert composed("search=joint", "search.p=[3]").search.p == [3]
    assert composed("search=optuna", "search.storage=a").has_workers


OBVIOUS = (".name", ".cloud", ".edge")
"""Keys that need no comment."""


def test_every_key_has_a_comment() -> None:
    documented = set()
    for path in sorted({*config_folder().glob("*.yaml"), *config_folder().glob("*/*.yaml")}):
        if path.parent.name != "tuned":
            for key, commented in keys_of(path):
                assert commented or key.endswith(OBVIOUS), f"{relative(path)}: {key} has no comment"
                documented.add(key)
    fields = {
        f"{name}.{key}" if isinstance(value, dict) else name
        for name, value in asdict(Settings()).items()
        for key in (value if isinstance(value, dict) else (name,))
    }
    assert documented == fields


def keys_of(path: Path) -> Iterator[tuple[str, bool]]:
    """The settings of a config as people type them, and whether the line has a comment.

    What the hydra section holds is no setting of ours.
    """
    text = path.read_text(encoding="utf-8").partition("\nhydra:")[0]
    body = text.partition("defaults:")[2].partition("\n\n")[2] if "defaults:" in text else text
    flat = path.parent != config_folder() and "@package _global_" not in text
    section = ""
    for line in body.splitlines():
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if not value.partition("#")[0].strip():
            section = key
        elif flat:
            yield f"{path.parent.name}.{key}", " # " in line
        else:
            yield f"{section}.{key.strip()}" if line.startswith(" ") else key, " # " in line


def relative(path: Path) -> Path:
    return path.relative_to(config_folder())
