"""Every config composes, the promised settings are there, and every bad value is refused in one line."""

from __future__ import annotations

import copy
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ecdiff_core.config import PairSpec, Sampling
from ecdiff_core.models.pair_spec import Lora, ModelRef
from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.cli.hydra_configs import primary_config
from ecdiff_tune.config import Settings, from_config
from ecdiff_tune.config.composed import present_names
from ecdiff_tune.config.described import meanings
from ecdiff_tune.config.names import setting_names
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.study.folder import flat

from ...refusals import refused

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(config_folder().iterdir())
    if folder.is_dir() and folder.name != "tuned"  # configs for inference, not settings
}
CHOICES = [(group, choice) for group, choices in GROUPS.items() for choice in choices]


def composed(*overrides: str, command: str = "tune") -> Settings:
    """The checked settings of a command line."""
    name = primary_config(command)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return from_config(compose(config_name=name, overrides=list(overrides)))


def fitted(*overrides: str) -> tuple[Settings, list[str]]:
    """As a command has them, and what is said of the grids."""
    name = primary_config("tune")
    said: list[str] = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(config_name=name, overrides=list(overrides))
        return from_config(config, overrides, said.append), said


@pytest.mark.parametrize(
    ("steps", "k", "edge_k", "s"),
    [
        (2, [1], [0], (2,)),
        (3, [1, 2], [0, 2], (2,)),
        (4, [1, 2, 3], [0, 2], (2, 3)),
        (6, [1, 2, 3, 4, 5], [0, 2, 5], (4, 5)),
    ],
)
def test_grids_that_nobody_set_fit_the_steps(
    steps: int, k: list[int], edge_k: list[int], s: tuple[int, ...]
) -> None:
    given, said = fitted(f"sampling.num_inference_steps={steps}")
    assert (given.search.k, given.s_values) == (k, s)
    shown = str(k).replace(" ", "")
    cut = [f"search.k={shown}"] * (steps < 6) + [f"search.edge_k={edge_k}".replace(" ", "")] * (steps < 6)
    assert said == [
        f"note: {one}: of its usual values those below {steps}, the number of steps" for one in cut
    ]
    assert given.search.edge_k == edge_k


def test_placing_fits_any_number_of_steps() -> None:
    name = primary_config("tune")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        usual = compose(config_name=name, overrides=["search=schedule"])
    for steps in range(3, 51):
        config = copy.deepcopy(usual)
        config.sampling.num_inference_steps = steps
        given = from_config(config, ["search=schedule", f"sampling.num_inference_steps={steps}"])
        assert 3 <= min(given.cloud_calls) <= max(given.cloud_calls) <= max(given.s_values) <= steps


UNTIL = "calibration.until=0.001"


@pytest.mark.parametrize(
    ("given", "key", "got", "expected"),
    [
        (["search=greedy"], "calibration.until", "greedy", ["joint", "schedule"]),
        (["search=race", "search.joint=true"], "calibration.until", "race", ["joint", "schedule"]),
        (["search=predict"], "calibration.until", "predict", ["joint", "schedule"]),
        (["search=joint", "search.joint=false"], "search.joint", False, "true with calibration.until"),
        (["search.error_rate=0"], "search.error_rate", 0, "> 0 with calibration.until"),
        (
            ["search=schedule", "search.min_quality=0.9"],
            "search.min_quality",
            0.9,
            "null with calibration.until",
        ),
    ],
)
def test_where_a_race_cannot_end_early(given: list[str], key: str, got: object, expected: object) -> None:
    with refused(key=key, got=got, expected=expected):
        composed(*given, UNTIL)


@pytest.mark.parametrize("name", ["greedy", "schedule"])
def test_where_handoffs_are_not_searched(name: str) -> None:
    with refused(key="search.handoff", got=["aligned", "exact"], expected=f"null with search={name}"):
        composed(f"search={name}", "search.handoff=[aligned,exact]")


def test_handoffs_of_a_search() -> None:
    assert composed().handoffs == ("aligned",)
    assert composed("search.handoff=[aligned,exact]").handoffs == ("aligned", "exact")
    assert composed("search=race", "search.joint=true", "sampling.handoff=exact").handoffs == ("exact",)


def test_until_is_an_option_of_the_search() -> None:
    assert composed(UNTIL).search_options().until == 0.001
    assert composed("search=schedule", UNTIL).search_options().until == 0.001
    assert composed().search_options().until is None


def test_grids_that_somebody_set_are_refused() -> None:
    with refused(key="search.k", got=[1, 5], expected="within 0 … 3"):
        fitted("sampling.num_inference_steps=4", "search.k=[1,5]")
    with refused(key="sampling.num_inference_steps", got=1, expected=">= 2 (eq. 3 needs two noises)"):
        fitted("sampling.num_inference_steps=1")
    with refused(key="search.s", got=2, expected=">= 3"):
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
    with refused(key="pair.cloud", line=told):
        composed("pair=custom")


@pytest.mark.parametrize("group", ["search", "pair"])
def test_a_group_that_was_taken_out_is_to_be_chosen(group: str) -> None:
    with refused(key=re.compile(rf"^{group}\."), line=rf"{group}=NAME\.$"):
        composed(*["pair=shapes"] * (group != "pair"), f"~{group}")


def test_the_schema_holds_the_defaults() -> None:
    found, schema = (
        asdict(composed("pair=custom", "pair.cloud=a", "pair.edge=b", command="stage1")),
        asdict(Settings()),
    )
    for chosen in ("pair", "link"):  # choices of a group, without which there is none
        del found[chosen], schema[chosen]
    schema["search"] |= {"name": "greedy", "rungs": [0.05, 0.1, 0.25, 0.5], "margin": 0.0005}  # its own
    assert found == schema


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
    before = OmegaConf.select(OmegaConf.structured(composed(command="stage1")), key)
    more = ["search.s=[30]"] if key == "sampling.num_inference_steps" else []
    found = OmegaConf.select(OmegaConf.structured(composed(f"{key}={text}", *more, command="stage1")), key)
    assert found == value
    assert before != value


def test_tune_searches_all_at_once_and_its_stages_go_the_papers_walk() -> None:
    chosen = {name: composed(command=name).search.name for name in ("tune", "stage1", "stage2", "reference")}
    assert chosen == {"tune": "joint", "stage1": "greedy", "stage2": "greedy", "reference": "greedy"}
    assert composed("search=greedy").search.name == "greedy"
    assert composed("search=joint", command="stage1").search.name == "joint"
    assert composed("search.k=[2]").search.finalists == 8


def test_a_base_yaml_that_chooses_a_search_is_for_all_commands(tmp_path: Path) -> None:
    shutil.copytree(config_folder(), tmp_path / "conf")
    base = tmp_path / "conf" / "base.yaml"
    base.write_text(base.read_text("utf-8").replace("  - pair: shapes", "  - pair: shapes\n  - search: race"))
    name = primary_config("tune", ["--config-path", str(tmp_path / "conf")])
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        assert from_config(compose(config_name=name)).search.name == "race"


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


NOT_DISTINCT = "to hold at least one value, none twice"


@pytest.mark.parametrize(
    ("override", "got", "expected"),
    [
        ("sampling.num_inference_steps=0", 0, ">= 1"),
        ("search.residual=[]", [], NOT_DISTINCT),
        ("search.edge_k=[]", [], NOT_DISTINCT),
        ("sampling.guidance_scale=-1", -1, ">= 0"),
        ("sampling.handoff=alinged", "alinged", ["aligned", "exact"]),
        ("sampling.estimator=gradeint", "gradeint", ["edge", "gradient", "newton2", "reuse", "secant"]),
        ("dtype=float23", "float23", ["bfloat16", "float16", "float32"]),
        ("latency=wallclok", "wallclok", ["profile", "wallclock"]),
        ("sharing=off_", "off_", ["off", "on"]),
        ("tracking=wandbb", "wandbb", ["mlflow", "none", "tensorboard", "wandb"]),
        ("offload=modle", "modle", ["model", "none", "sequential"]),
        ("sharing_gib=-1", -1, ">= 0"),
        ("link.mbps=0", 0, "> 0"),
        ("link.round_trip_seconds=-0.1", -0.1, ">= 0"),
        ("calibration.num_prompts=0", 0, ">= 1"),
        ("heldout.num_prompts=-1", -1, ">= 0"),
        ("batch_size=0", 0, "to be a whole number >= 1 or auto"),
        ("batch_size=most", "most", "to be a whole number >= 1 or auto"),
        ("seed=-1", -1, ">= 0"),
        ("seed=4611686018427387905", 4611686018427387905, "<= 4611686018427387904"),
        ("study=a/b", "a/b", "to be a plain folder name"),
        ("study=..", "..", "to be a plain folder name"),
        ("study=''", "", "to be a plain folder name"),
        ("study=reference", "reference", "to be another name"),
        ("params.p=-1", -1, "to be a whole number >= 0 or auto"),
        ("params.p=2.5", 2.5, "to be a whole number >= 0 or auto"),
        ("params.p=many", "many", "to be a whole number >= 0 or auto"),
        ("params.p=true", True, "to be a whole number >= 0 or auto"),
        ("params.p=31", {"p": 31, "s": 30}, "<= every s"),
        ("params.p=1", 1, ">= 2 when k >= 1 is searched (eq. 3 needs two noises)"),
        ("search.k=[]", [], NOT_DISTINCT),
        ("search.k=[1,2,1]", [1, 2, 1], NOT_DISTINCT),
        ("search.k=[-1]", [-1], "within 0 … 49"),
        ("search.k=[50]", [50], "within 0 … 49"),
        ("search.alpha=[]", [], NOT_DISTINCT),
        ("search.alpha=[0]", [0], "within 0 < alpha <= 1"),
        ("search.alpha=[0.5,1.1]", [0.5, 1.1], "within 0 < alpha <= 1"),
        ("search.s=[]", [], NOT_DISTINCT),
        ("search.s=[30,51]", [30, 51], "within 0 … 50 (sampling.num_inference_steps)"),
        ("search.s=[-1]", [-1], "within 0 … 50 (sampling.num_inference_steps)"),
        ("search.finalists=0", 0, ">= 1"),
        ("search.error_rate=1", 1, "< 1"),
        ("search.margin=-1", -1, ">= 0"),
        ("search.min_quality=2", 2, "<= 1"),
        ("search.max_seconds=0", 0, "> 0"),
        ("rerank.min_quality=-2", -2, ">= -1"),
        ("rerank.max_seconds=0", 0, "> 0"),
        ("compare.methods=[]", [], NOT_DISTINCT),
        ("pareto.seconds=0", 0, "> 0"),
        ("pareto.pick=fastest", "fastest", ["best_below", "fastest_above"]),
        ("objective.earliest_s=50", 50, "within 0 … 49 (s' of eq. 11)"),
        ("objective.earliest_s=-1", -1, "within 0 … 49 (s' of eq. 11)"),
        ("objective.w2=inf", float("inf"), "to be a finite number"),
        ("errors.num_prompts=0", 0, ">= 1"),
        ("errors.noise=[]", [], NOT_DISTINCT),
        ("errors.noise=[0.01,0.01]", [0.01, 0.01], NOT_DISTINCT),
        ("metrics.names=[]", [], NOT_DISTINCT),
        ("metrics.names=[ssim,ssim]", ["ssim", "ssim"], NOT_DISTINCT),
        ("metrics.lpips_net=vggg", "vggg", ["alex", "vgg"]),
        ("compare.methods=[cloud,cloud]", ["cloud", "cloud"], NOT_DISTINCT),
        ("compare.timed_prompts=0", 0, ">= 1"),
    ],
)
def test_bad_values(override: str, got: object, expected: object) -> None:
    with refused(key=override.partition("=")[0], got=got, expected=expected):
        composed(override)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("errors.noise=[0.01,2]", "errors.noise[1]", "<= 1"),
        ("search.rungs=[0.1,1]", "search.rungs[1]", "< 1"),
        ("metrics.names=[ssim,psrn]", "metrics.names[1]", ["clip", "lpips", "psnr", "ssim"]),
        ("pair.lora=[{path: x, on: clod}]", "pair.lora[0].on", ["both", "cloud", "edge"]),
        ("objective.w1=nan", "objective.w1", "to be a finite number"),
        ("search.alpha=[nan]", "search.alpha", "within 0 < alpha <= 1"),
        ("search.s=[1,8]", "every s", ">= 2, the least p that params.p=auto chooses"),
    ],
)
def test_bad_parts_of_values(override: str, key: str, expected: object) -> None:
    with refused(key=key, expected=expected):
        composed(override)


def test_a_range_comes_with_what_the_setting_means() -> None:
    advice = "Meaning: 10^6 bits a second; null is one machine, where nothing is sent (> 0)."
    with refused(key="link.mbps", expected="> 0", advice=advice):
        composed("link.mbps=0")


@pytest.mark.parametrize(
    ("overrides", "key", "about"),
    [
        (["params.k=2"], "both params.k and params.alpha", {"got": {"k": 2, "alpha": None}}),
        (["search.s=[30]", "sampling.num_inference_steps=20"], "search.s", {"got": [30]}),
        (
            ["objective.w1=0", "objective.w2=0", "objective.w3=0"],
            "objective.w1, w2 or w3",
            {"got": {"w1": 0, "w2": 0, "w3": 0}, "expected": "> 0"},
        ),
        (["metrics.names=[clip]"], "metrics.clip", {}),
        (["pareto.pick=best_below"], "pareto.seconds", {}),
        (
            ["search=schedule", "search.cloud_calls=[2]"],
            "search.cloud_calls",
            {"got": [2], "expected": "within 3 … 40 (the largest s)"},
        ),
        (["sampling.use_dynamic_cfg=true", "sampling.handoff_adapter=matched"], "use_dynamic_cfg", {}),
        (
            ["sampling.use_dynamic_cfg=true", "search.handoff_adapter=[identity,matched]"],
            "use_dynamic_cfg",
            {},
        ),
        (
            ["search=greedy", "search.p=[3]"],
            "search.p",
            {"got": "greedy", "advice": "Leave it out, or choose another search."},
        ),
        (["search=race", "search.p=[3]"], "search.p", {"advice": "Leave it out, or set search.joint=true."}),
        (
            ["search=schedule", "search.p=[3]"],
            "search.p",
            {"advice": "Leave it out, or choose another search."},
        ),
        (["search=schedule", "params.p=3"], "params.p", {"got": "schedule"}),
        (
            ["search=race", "search.storage=a"],
            "search.storage",
            {"advice": "Leave it out, or choose search=optuna."},
        ),
        (["search=race", "search.extend=true"], "search.extend", {"expected": ["greedy", "exhaustive"]}),
        (["search=race", "search.min_quality=0.9"], "search.min_quality", {"got": "race"}),
        (["search=greedy", "search.joint=true"], "search.joint", {"expected": "false"}),
        (["search=schedule", "search.joint=false"], "search.joint", {"expected": "true"}),
        (["search=race", "latency=wallclock"], "latency", {"got": "wallclock"}),
    ],
)
def test_settings_that_contradict_each_other(
    overrides: list[str], key: str, about: dict[str, object]
) -> None:
    with refused(key=key, **about):
        composed(*overrides)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["params.k=2", "params.alpha=0"], "Expected 0 < alpha <= 1, got alpha=0"),
        (["params.k=-1", "params.alpha=0.3"], "Expected k to be a whole number >= 0, got -1"),
    ],
)
def test_params_by_hand_that_are_none(overrides: list[str], line: str) -> None:
    with refused(line=line):
        composed(*overrides)


def test_settings_that_have_an_effect_are_taken() -> None:
    assert composed("search=race", "search.joint=true", "search.p=[3,5]").search.p == [3, 5]
    assert composed("search=joint", "search.p=[3]").search.p == [3]
    assert composed("search=optuna", "search.storage=a").has_workers


def test_base_and_the_groups_list_every_setting() -> None:
    listed = set()
    for path in (config_folder() / "base.yaml", *config_folder().glob("*/*.yaml")):
        if path.parent.name != "tuned":
            text = path.read_text(encoding="utf-8")
            tree = yaml.safe_load(text)
            inside = path.parent != config_folder() and "@package _global_" not in text
            listed |= set(flat({path.parent.name: tree} if inside else tree))
    assert {key for key in listed if not key.startswith(("defaults", "hydra."))} == set(setting_names())
    assert set(setting_names()) <= set(meanings())


@pytest.mark.parametrize(("overrides", "rungs"), [([], [0.2]), (["search.rungs=[0.4]"], [0.4])])
def test_an_older_name_in_a_file_of_ones_own(
    tmp_path: Path, overrides: list[str], rungs: list[float]
) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text("name: race\nlooks: [0.2]\n")
    given, said = ["search=mine", f"hydra.searchpath=[{tmp_path}]", *overrides], list[str]()
    name = primary_config("tune")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(config_name=name, overrides=given)
    present_names(config, given, said.append)
    assert from_config(config).search.rungs == rungs
    assert said == ["note: search.looks is called search.rungs now."]
