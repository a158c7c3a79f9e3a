"""What the pages tell people to type is right: commands compose, options are known, snippets run.

Commands that take long, or need what a test's machine lacks (a hub, an accelerator, somebody's files), are
composed and checked instead of run; ``ELSEWHERE`` are those of other programs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ecdiff_core.__main__ import _parser
from ecdiff_core.config import TunedConfig
from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.cli.arguments import paths_quoted, written_out
from ecdiff_tune.cli.hydra_configs import primary_config
from ecdiff_tune.config import from_config
from ecdiff_tune.data.conf_folder import config_folder

from . import hooking

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = (
    "git clone",
    "cd ",
    "pip install",
    "uv ",
    "optuna-dashboard",
    "accelerate launch",
    "torchrun",
    "export ",
)
"""How commands of other programs begin."""
TUNERS = "python.md"
"""The page whose snippets tests/tune/test_python_page.py runs."""
NEEDS_CUDA = 'device="cuda"'
"""In snippets that are compiled, not run."""


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """The pages' fenced blocks, with the page's name."""
    for page in PAGES:
        yield from blocks_of(page, *languages)


def blocks_of(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """Those of one page."""
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        if language in languages:
            yield page.name, text


@cache
def commands() -> list[tuple[str, str]]:
    """Every command with its page: of consoles after ``$``, and those within a line."""
    found = []
    for page, text in blocks("console", "bash", "sh"):
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            found += [(page, one) for one in line[2:].split(" && ") if line.startswith("$ ")]
    for page in PAGES:
        prose = BLOCK.sub("", page.read_text("utf-8"))
        for inline in re.findall(r"`(python (?:-m ecdiff|scripts/)[^`]+)`", prose):
            found.append((page.name, " ".join(inline.split())))
    return found


def words(command: str) -> list[str]:
    """Without variables before it, what stands for more, and what the shell takes."""
    parts = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", parts[0]):
        del parts[0]
    return [one for one in parts if "…" not in one and one not in ("&", "[OVERRIDES]")]


def check_tune(arguments: list[str]) -> None:
    """That the settings compose, and contradict neither each other nor the schema."""
    name, *given = [one for one in arguments if one != "-m"]
    assert name in COMMANDS, name
    swept = "-m" in arguments
    given = [one for one in given if not one.startswith("hydra")]
    given = [one.split(",")[0] if swept and "[" not in one else one for one in given]
    if "pair=custom" in given:
        named = {one.partition("=")[0] for one in given}
        models = {"pair.name": "mine", "pair.cloud": "a", "pair.edge": "b"}
        given += [f"{key}={value}" for key, value in models.items() if key not in named]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(config_name=primary_config(name), overrides=paths_quoted(written_out(name, given)))
    from_config(config, given, lambda _: None)


def check_script(path: str, arguments: list[str]) -> None:
    """That it is there and its sources name the options (to import it may take seconds)."""
    script = ROOT / path
    assert script.is_file(), path
    sources = [script, *(ROOT / "scripts").glob("*/*.py"), *(ROOT / "scripts").glob("prompt_sources.py")]
    text = "".join(one.read_text("utf-8") for one in sources)
    for option in [one.partition("=")[0] for one in arguments if one.startswith("--")]:
        assert f'"{option}"' in text, f"{path} has no {option}"


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_is_right(page: str, command: str) -> None:
    if command.startswith(ELSEWHERE):
        return
    parts = words(command)
    if parts[0] == "make":
        assert re.search(rf"^{parts[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), command
        return
    assert parts[0] in ("python", ".venv/bin/python"), command
    if parts[1:3] == ["-m", "ecdiff_tune"]:
        if len(parts) > 3 and parts[3] in COMMANDS and "--help" not in parts:
            check_tune(parts[3:])
    elif parts[1:3] == ["-m", "ecdiff_core"]:
        if len(parts) > 3:
            assert _parser().parse_args(parts[3:]).config
    else:
        check_script(parts[1], parts[2:])


def test_no_page_has_lost_its_commands() -> None:
    assert len(commands()) > 30
    assert {"README.md", "guide.md", "commands.md", "search.md"} <= {page for page, _ in commands()}


@pytest.mark.parametrize(("page", "text"), [one for one in blocks("python") if one[0] != TUNERS])
def test_a_snippet_runs(
    page: str,
    text: str,
    tiny_config: TunedConfig,
    tiny_pair: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with the YAML files that they name, of the tiny pair and of 50 steps."""
    code = compile(text, page, "exec")
    if NEEDS_CUDA in text or "def " in text:
        return
    config = replace(tiny_config, sampling=replace(tiny_config.sampling, num_inference_steps=50))
    names: dict[str, object] = {}
    if "edge_pipe" in text:
        pipe, edge = (hooking.load(tiny_pair / side) for side in ("cloud", "edge"))
        names = {"pipe": pipe, "edge_pipe": edge}
    monkeypatch.chdir(tmp_path)
    for path in (Path("ecdiff.yaml"), Path("outputs/shapes/default/ecdiff.yaml")):
        path.parent.mkdir(parents=True, exist_ok=True)
        config.save(path)
    exec(code, names)
    assert "apply_ecdiff" in text or any(tmp_path.glob("*.png")), "nothing was made"
    if "image" in names:
        assert getattr(names["image"], "size", None) == (32, 32)


def test_the_first_screen_is_one() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) < 120
    assert text.index("make tune") < 1500


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
