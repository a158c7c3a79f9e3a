"""The primary configs of the commands, and the help that each of them shows."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore

from ecdiff_tune.cli import ARGUMENTS, COMMANDS, Command
from ecdiff_tune.config import composed
from ecdiff_tune.config.described import as_yaml, with_comments
from ecdiff_tune.data.conf_folder import config_folder

SETTINGS = "== Settings"
"""Begins the line in a help template that the settings follow, as YAML."""


def primary_config(command: str, arguments: Sequence[str] = ()) -> str:
    """Make a command's config and the settings known to Hydra; the config's name.

    That is the command's where the folder of the configs holds a file of that name, as ours once did.

    Args:
        arguments: of the command line, of which ``--config-path`` names another folder.
    """
    composed.register()
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-path", "-cp", default=config_folder(), type=Path)
    folder = parser.parse_known_args(arguments)[0].config_path
    if (folder / f"{command}.yaml").is_file():
        return command
    # Hydra refuses a file and a stored config of one name, also of a file that it does not read otherwise.
    name = f"ecdiff_{command}"
    kind = COMMANDS[command]
    own = {"app_name": f"ecdiff-tune {command}", "template": _help(command, kind)}
    defaults = ["base", *_own_groups(folder, kind), "_self_"]
    ConfigStore.instance().store(name, {"defaults": defaults, **kind.defaults, "hydra": {"help": own}})
    return name


def _own_groups(folder: Path, command: Command) -> list[dict[str, str]]:
    """A command's own choice of search, where the folder's base.yaml makes none for all commands."""
    try:
        groups = _chosen_groups((folder / "base.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # which Hydra will tell of
        groups = frozenset()
    return [] if "search" in groups else [{"search": command.search}]


@cache
def _chosen_groups(text: str) -> frozenset[str]:
    """The groups in the defaults of a config file: a program that composes often asks each time."""
    chosen = yaml.safe_load(text)["defaults"]
    return frozenset(name.split()[-1].strip("/") for one in chosen if isinstance(one, dict) for name in one)


def _help(name: str, command: Command) -> str:
    """With Hydra's variables for what it knows itself."""
    usage = f"Usage: ecdiff-tune {name} {ARGUMENTS}"
    groups = "== Groups (GROUP=CHOICE; tuned is none: the paper's configs, for `ecdiff generate --config`) =="
    begin = [f"ecdiff-tune {name}: {command.about}", usage, *([command.note] if command.note else [])]
    settings = f"{SETTINGS} (KEY=VALUE) ==\n$CONFIG"
    return "\n\n".join([*begin, f"{groups}\n$APP_CONFIG_GROUPS\n{settings}"]) + "\n"


def explained(text: str) -> str:
    """A help text whose settings have their meanings as comments, a line a setting."""
    before, found, after = text.partition(SETTINGS)
    title, _, settings = after.partition("\n")
    tree = yaml.safe_load(settings) if found else None
    if not isinstance(tree, dict):
        return text
    return f"{before}{found}{title}\n{with_comments(as_yaml(tree))}"
