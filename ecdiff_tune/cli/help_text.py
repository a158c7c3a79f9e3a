"""``--help`` of a command: every setting with its comment in conf/, which is where they are written once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

SETTINGS = "== Settings"
"""Begins the line in a help template that the settings follow, as YAML."""
_LINE = re.compile(r"^( *)(\w+):(?: +(?P<value>\"[^\"]*\"|\[[^#]*\]|[^#\s]\S*))? *(?:# *(?P<comment>.*))?$")
_WIDTH = 40
"""Column at which comments begin."""


def with_comments(text: str, conf: Path) -> str:
    """A help text whose settings have the comments of conf/, a line a setting.

    Args:
        conf: the folder of the configs.
    """
    before, found, after = text.partition(SETTINGS)
    title, _, settings = after.partition("\n")
    tree = yaml.safe_load(settings) if found else None
    if not isinstance(tree, dict):
        return text
    return f"{before}{found}{title}\n" + "\n".join(_lines(tree, comments(conf, tree), "", "")) + "\n"


def comments(conf: Path, tree: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The comment of every setting that has one, by its whole name.

    conf/base.yaml goes before the groups, and of a group the file that is chosen before the others.

    Args:
        tree: the settings, whose ``name`` in a group says which file that is.
    """
    found = dict(_comments(conf / "base.yaml", ""))
    for group in sorted(path for path in conf.iterdir() if path.is_dir() and path.name != "tuned"):
        chosen = ((tree or {}).get(group.name) or {}).get("name")
        for path in sorted(group.glob("*.yaml"), key=lambda one: (one.stem != chosen, one.stem)):
            for name, comment in _comments(path, f"{group.name}."):
                found.setdefault(name, comment)
    return found


def _comments(path: Path, prefix: str) -> Iterator[tuple[str, str]]:
    parent = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package _global_"):
            prefix = ""
        if not (read := _LINE.match(line)):
            continue
        name = f"{parent}{read[2]}" if read[1] else read[2]
        parent = parent if read[1] else f"{read[2]}."
        if read["comment"]:
            yield f"{prefix}{name}", read["comment"]


def _lines(tree: Mapping[str, Any], known: Mapping[str, str], prefix: str, indent: str) -> Iterator[str]:
    for name, value in tree.items():
        key, comment = f"{prefix}{name}", known.get(f"{prefix}{name}", "")
        group = isinstance(value, dict)
        shown = f"{indent}{name}:" if group else f"{indent}{name}: {_flow(value)}"
        yield f"{shown:<{_WIDTH}}  # {comment}" if comment else shown
        if group:
            yield from _lines(value, known, f"{key}.", indent + "  ")


def _flow(value: Any) -> str:
    """A value on one line, as YAML has it.

    >>> _flow([1, 2]), _flow(None), _flow("on")
    ('[1, 2]', 'null', "'on'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
