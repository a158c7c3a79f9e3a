"""The tuned config's YAML: every key known and of its type, none given twice, comments beside the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import yaml

from ecdiff_core.errors import ConfigError, nearest

_SCALARS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "text"),
    "bool": ((bool,), "true or false"),
    "Handoff": ((str,), "text"),
    "HandoffAdapter": ((str,), "text"),
    "str | None": ((str, type(None)), "text or null"),
    "int | None": ((int, type(None)), "a whole number or null"),
    "tuple[int, ...] | None": ((list, type(None)), "a list or null"),
    "On": ((str,), "cloud, edge or both"),
    "Sequence[Lora]": ((list,), "a list"),
    "Mapping[str, Any] | None": ((dict, type(None)), "a mapping or null"),
}
"""By a field's type: what YAML must hold for it, and that in words."""
_SHOWN = 40
"""Characters of a wrong value that an error shows."""
T = TypeVar("T")


def read(text: str, source: str) -> Mapping[str, Any]:
    """The mapping that a YAML text holds; ``source`` names it in errors.

    Raises:
        ConfigError: it is no YAML, no mapping, or has a key twice.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets ValueError of impossible dates through
        raise ConfigError(f"{source} is not valid YAML{_place(error)}") from error
    if tree is None:
        raise ConfigError(f"{source} is empty: expected pair, params and sampling, as tune writes them.")
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected a mapping with pair, params and sampling, got {_shown(tree)}.")
    return tree


def write(tree: Mapping[str, Any], comments: Mapping[str, str], bare: Sequence[str] = ()) -> str:
    """The YAML text.

    Args:
        comments: by key, at any depth.
        bare: keys of the outermost level, at the end, below which there are no comments.
    """
    # One line a value, however long: a comment inside a folded one would break it.
    text = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    lines = text.splitlines()
    told = min((lines.index(f"{key}:") for key in bare if f"{key}:" in lines), default=len(lines))

    def with_comment(line: str) -> str:
        key = line.strip().partition(":")[0]
        return f"{line}  # {comments[key]}" if key in comments else line

    return "\n".join([*map(with_comment, lines[:told]), *lines[told:]]) + "\n"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(
                    f"the key {key.value} is given twice, in line {lines[key.value]} and in line {line}."
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes tuples, the schedule, on one line."""


_Dumper.add_representer(
    tuple, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def build(cls: type[T], tree: object, nested: Mapping[str, type], source: str, where: str = "") -> T:
    """``cls`` from a mapping, every key known, every required one there, every scalar of its type.

    Args:
        nested: dataclasses by the keys that hold one, or a list of them.
        source: names the file in errors.
        where: the key that ``tree`` belongs to.

    Raises:
        ConfigError: with the key.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: expected {where or 'a mapping'} to hold keys, got {_shown(tree)}.")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in tree.items():
        key = "on" if key is True else key  # YAML 1.1 takes a bare `on` for a truth value
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"{source}: unknown key {path}: {nearest(str(key), known)}.")
        kind = str(known[key].type)
        if key in nested and not kind.startswith("Sequence["):
            values[key] = build(nested[key], value, nested, source, path)
            continue
        expected, words = _SCALARS.get(kind, ((object,), ""))
        if not isinstance(value, expected) or (isinstance(value, bool) != (kind == "bool") and words):
            raise ConfigError(f"{source}: expected {path} to be {words}, got {_shown(value)}.")
        values[key] = value
        if key in nested and isinstance(value, list):
            values[key] = [
                build(nested[key], row, nested, source, f"{path}[{i}]") for i, row in enumerate(value)
            ]
    left = [name for name, field in known.items() if field.default is MISSING and name not in values]
    missing = [f"{where}.{name}" if where else name for name in left if not _may_be_none(known[name])]
    if missing:
        raise ConfigError(f"{source}: missing {', '.join(missing)}.")
    values |= dict.fromkeys(left)
    return cls(**values)


def _place(error: Exception) -> str:
    """Where PyYAML stopped and why, without the lines that it shows."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ": " + str(error).replace("\n", " ")
    return f", line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', 'it ends there')}."


def _shown(value: object) -> str:
    """A value on one line, its beginning where it is long (another file's content, say)."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _may_be_none(field: Field[Any]) -> bool:
    return str(field.type).endswith("| None")
