"""The command line itself: help, mistyped names, sweeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from hydra._internal.hydra import Hydra

from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.cli.arguments import paths_quoted
from ecdiff_tune.config.names import setting_names
from ecdiff_tune.data.conf_folder import config_folder

from ..studies import Command, Study, one_line


@pytest.fixture(scope="module", autouse=True)
def groups_listed_once() -> Iterator[None]:
    """Hydra lists the groups of conf/ for every help, which takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        known: dict[bool, str] = {}
        list_groups = Hydra.format_config_groups

        def listed(self: Hydra, predicate: Callable[[str], bool], compact: bool = True) -> str:
            group = predicate("search")
            if group not in known:
                known[group] = list_groups(self, predicate, compact)
            return known[group]

        patch.setattr(Hydra, "format_config_groups", listed)
        yield


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(command: Command, arguments: list[str]) -> None:
    outcome = command(*arguments)
    assert outcome.status == 0
    for name, known in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(known.about)}$", outcome.out, re.MULTILINE)


def test_no_command(command: Command) -> None:
    outcome = command()
    assert outcome.status == 2
    assert outcome.out.startswith("usage: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.status == 0
    assert outcome.out.startswith(f"ecdiff-tune {name}: ")
    for text in ("search: exhaustive, greedy", "batch_size: 25", "resume: true", "earliest_s: null"):
        assert text in outcome.out


def test_help_says_what_each_setting_means(command: Command) -> None:
    lines = command("tune", "search=race", "--help").out.splitlines()
    shown = {line.split(":")[0].strip() for line in lines if "  # " in line}
    assert {name.rpartition(".")[2] for name in setting_names()} <= shown
    assert any(
        re.fullmatch(r"seed: 0 +# seed of the prompt sample and, .* \(0 … .*\)", line) for line in lines
    )


def test_conf_folders_of_before(command: Command, tmp_path: Path) -> None:
    """A whole one of the user's own, and one beside the package's, both with a file a command."""
    folder = tmp_path / "conf"
    copytree(config_folder(), folder)
    (folder / "tune.yaml").write_text("defaults:\n  - base\n  - _self_\nseed: 7\n")
    (folder / "pair" / "mine.yaml").write_text(
        "# @package _global_\npair:\n  name: mine\n  cloud: a\n  edge: b\nheldout:\n  num_prompts: 9\n"
    )
    for flag, name, seed in (
        ("--config-path", "tune", 7),
        ("-cp", "stage1", 0),
        ("--config-dir", "tune", 0),  # where files of the package's names never had an effect
    ):
        outcome = command(flag, str(folder), name, "--cfg", "job", "pair=mine")
        assert outcome.status == 0, outcome
        assert {f"seed: {seed}", "  num_prompts: 9"} <= set(outcome.out.splitlines())


def test_commands_leave_nothing_of_hydras_behind(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("check").status == 0
    assert command("check", "seed=-1").status == 2
    assert command("report").status == 2
    assert command("check", "-m", "seed=1,2").status == 0
    assert command("check", "-m", "++x=1,2").status == 2
    assert list(tmp_path.iterdir()) == []
    assert command("check", "hydra.run.dir=kept", "hydra.output_subdir=.hydra").status == 0
    assert (tmp_path / "kept" / ".hydra" / "overrides.yaml").is_file()


def test_cfg_job(command: Command, tmp_path: Path) -> None:
    outcome = command("tune", "--cfg", "job", "seed=3", f"output_dir={tmp_path / 'new'}")
    assert outcome.status == 0
    assert "seed: 3" in outcome.out.splitlines()
    assert "hydra" not in outcome.out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tun"], "Unknown command 'tun': choose from .*tune.* \\(did you mean tune\\?\\)"),
        (["tun", "report"], "Unknown command 'tun': .* \\(did you mean tune\\?\\)"),
        (
            ["tune", "pair=shapse"],
            "Unknown pair 'shapse': .* \\(did you mean shapes\\?\\)",
        ),
        (["stage1", "search=greddy"], "Unknown search 'greddy': .* \\(did you mean greedy\\?\\)"),
        (["tune", "pair.lora=[{path: x, wieght: 1}]"], "Unknown key wieght of pair.lora: .*mean weight"),
        (["tune", "seeed=1"], "Unknown setting seeed: .* \\(did you mean seed\\?\\)"),
        (
            ["tune", "calibration.num_promts=3"],
            "Unknown setting calibration.num_promts: .* \\(did you mean calibration.num_prompts\\?\\)",
        ),
        (["tune", "serach.k=[1]"], "Unknown setting serach"),
        (
            ["tune", "method=pab", "acceleration.values.timestep_low=1"],
            "give acceleration.values as a whole, acceleration.values={timestep_low: VALUE}",
        ),
        (["tune", "seed=many"], "'many'.* Integer"),
        (["tune", "search.k=[1"], "Expected KEY=VALUE or GROUP=CHOICE, got 'search.k=.1'"),
        (["tune", "+foo=1"], "Unknown setting foo: choose from "),
        (
            ["tune", "+calibration.num_prompt=20"],
            "Unknown setting calibration.num_prompt: .* \\(did you mean calibration.num_prompts\\?\\)",
        ),
        (["check", "++x=1"], "Unknown setting x: choose from "),
        (["table5", "+nonsense=shapes"], "Unknown setting nonsense"),
        (["report", "+hydra.foo=1"], "Unknown setting hydra.foo: Hydra has none of that name"),
        (["tune", "guidance_scale=0"], "guidance_scale \\(did you mean sampling.guidance_scale\\?\\)"),
        (["tune", "+k=[1]"], "Unknown setting k \\(did you mean params.k or search.k\\?\\)"),
        (["tune", "search=grid"], "Unknown search 'grid': .* \\(did you mean exhaustive\\?\\)"),
        (["tune", "dtype=fp16"], "Unknown dtype 'fp16': .* \\(did you mean float16\\?\\)"),
        (["tune", "sharing=True"], "Unknown sharing 'True': .* \\(did you mean on\\?\\)"),
        (["optimise"], "Unknown command 'optimise': .* \\(did you mean tune\\?\\)"),
        (["generate"], "generate is a command of ecdiff: ecdiff generate --config YAML"),
        (["tune", "~link"], r"Expected link to be set, not taken out with ~link: .* give link=VALUE"),
        (["tune", "~link.mbps=3"], r"Expected link\.mbps to be set, not taken out"),
        (["tune", "search.k=3"], r"Expected search\.k to be a list, in brackets such as"),
    ],
)
def test_mistyped(command: Command, tmp_path: Path, arguments: list[str], told: str) -> None:
    outcome = command(*arguments, *([f"output_dir={tmp_path}"] if arguments[0] in COMMANDS else []))
    assert re.search(told, one_line(outcome))


def test_a_flag_s_value_is_no_command(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for arguments in (["--cfg", "job", "--config-dir", str(folder), "tune"], ["tune", "--cfg", "job"]):
        outcome = command(*arguments, f"output_dir={tmp_path}")
        assert outcome.status == 0, outcome
        assert "seed: 0" in outcome.out.splitlines()


def test_an_output_folder_that_cannot_be_written(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    line = one_line(study("tune", f"output_dir={tmp_path / 'file'}"))
    assert "output_dir" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failing_job_of_a_sweep(study: Study) -> None:
    outcome = study("stage1", "-m", "search.k=[12],[13]", "study=sweep-${hydra:job.num}")
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: Expected search.k within 0 … 11, got [12]")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["a b", "a=b", "a,b", "my (1)", "it's", "a\\b", "[x]", "back\\", "ünï&%$#!"])
def test_paths_are_taken_as_they_are(command: Command, tiny_pair: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tiny_pair)
    models = (f"pair.cloud={tmp_path / name / 'cloud'}", f"pair.edge={tmp_path / name / 'edge'}")
    outcome = command("check", "pair=custom", *models, f"output_dir={tmp_path / 'outputs'}")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"cloud {tmp_path / name / 'cloud'}\n" in outcome.out


def test_the_home_folder_in_paths(
    command: Command, tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my models").symlink_to(tiny_pair)
    # The second as bash hands over "pair.edge='~/my models/edge'".
    models = ("pair.cloud=~/my models/cloud", "pair.edge='~/my models/edge'")
    outcome = command("check", "pair=custom", *models, "output_dir=~/outputs", "study=~a")
    assert outcome.err.endswith("goes into quotes of its own: \"study='~a'\".\n")
    outcome = command("check", "pair=custom", *models, "output_dir=~/outputs", "study='~a'")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"cloud {tmp_path / 'my models/cloud'}\n" in outcome.out
    assert not Path("~").exists()


@pytest.mark.parametrize("key", ["compare.schedule", "errors.config", "search.artifacts", "search.storage"])
def test_paths_in_groups_are_quoted(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")
    assert paths_quoted([f"{key}=~/a b.yaml"]) == [f"{key}='/me/a b.yaml'"]


def test_paths_of_a_sweep_are_divided(command: Command, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tiny_pair)
    clouds = f"pair.cloud={tiny_pair / 'cloud'},{tmp_path / 'other' / 'cloud'}"
    outcome = command(
        "check", "-m", "pair=custom", clouds, f"pair.edge={tiny_pair / 'edge'}", f"output_dir={tmp_path}"
    )
    assert outcome.status == 0, outcome
    assert outcome.out.count("These two can work together.") == 2
