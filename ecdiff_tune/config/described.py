"""What each setting means and which values it may have, as text: for ``--help``, conf/ and README."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml
from pydantic import TypeAdapter

from ecdiff_tune.config.settings import Settings

_LINE = re.compile(
    r"(?P<shown>(?P<indent> *)(?P<name>\w+):(?: +(?:'[^']*'|\"[^\"]*\"|\[[^#]*\]|[^#\s]\S*))?) *(?:#.*)?"
)
"""A line of YAML that sets something."""
_WIDEST = 40
"""Column at which comments begin at the latest, but for single long lines."""


@lru_cache
def meanings() -> dict[str, str]:
    """Of every setting and every group, by its whole name.

    >>> meanings()["sharing_gib"].endswith("study's folder (>= 0)")
    True
    """
    schema = TypeAdapter(Settings).json_schema()
    found = {}
    for name, node in schema["properties"].items():
        found[name] = _meaning(node)
        inside = schema["$defs"].get(node.get("$ref", "").rpartition("/")[2], {})
        found |= {f"{name}.{one}": _meaning(part) for one, part in inside.get("properties", {}).items()}
    return found


def _meaning(node: Mapping[str, Any]) -> str:
    """With limits and choices that the words do not give themselves."""
    words, flat = node["description"], _flat(node)
    more = ", ".join(map(str, flat.get("enum", ())))
    if any(str(choice) not in words for choice in flat.get("enum", ())):
        return f"{words} ({more})"
    if "minimum" in flat and "maximum" in flat:
        return f"{words} ({flat['minimum']:g} … {flat['maximum']:g})"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {flat[name]:g}" for name, sign in signs.items() if name in flat)
    return f"{words} ({limits})" if limits else words


def _flat(node: Mapping[str, Any]) -> dict[str, Any]:
    """A schema's node with what it says of items and of alternatives."""
    found: dict[str, Any] = {}
    for part in (*node.get("anyOf", ()), *([node["items"]] if "items" in node else [])):
        found |= _flat(part)
    return found | dict(node)


def with_comments(text: str, group: str = "") -> str:
    """YAML whose lines have the settings' meanings as comments; other comments of such lines go.

    Args:
        group: that the outermost keys belong to; empty for none.
    """
    lines, parents = text.splitlines(), [group]
    read = [_LINE.fullmatch(line) for line in lines]
    widths = [len(one["shown"]) for one in read if one]
    column = max((width for width in widths if width <= _WIDEST), default=0)
    for i, one in enumerate(read):
        if one is None:
            continue
        depth = len(one["indent"]) // 2
        parents[depth + 1 :] = [f"{parents[depth]}.{one['name']}".lstrip(".")]
        meaning = meanings().get(parents[depth + 1])
        if meaning is not None:
            lines[i] = f"{one['shown']:<{column}}  # {meaning}"
    return "\n".join(lines) + "\n"


def as_yaml(tree: Mapping[str, Any]) -> str:
    """Settings as YAML, each on one line."""
    return "\n".join(_lines(tree, "")) + "\n"


def _lines(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {flow(value)}"


def flow(value: Any) -> str:
    """A value on one line, as YAML has it.

    >>> flow([1, 2]), flow(None), flow("on")
    ('[1, 2]', 'null', "'on'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
