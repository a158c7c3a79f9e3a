"""The tuned config's YAML: every key known and of its type, none given twice, comments beside the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from ecdiff_core.errors import ConfigError, ParamsError, shown
from ecdiff_core.validation import user_error

T = TypeVar("T")


def read(text: str, source: str) -> Mapping[str, Any]:
    """The mapping that a YAML text holds; ``source`` names it in errors.

    Raises:
        ConfigError: it is no YAML, no mapping, or has a key twice.
    """
    try:
        tree = _parsed(text)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets ValueError of impossible dates through
        raise ConfigError(f"{source} is not valid YAML{_place(error)}", key=source) from error
    if tree is None:
        raise ConfigError(
            f"{source} is empty: expected pair, params and sampling, as tune writes them.", key=source
        )
    if not isinstance(tree, dict):
        line = f"{source}: expected a mapping with pair, params and sampling, got {shown(tree)}."
        raise ConfigError(line, key=source, got=tree, expected="a mapping")
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
    first_bare = min((lines.index(f"{key}:") for key in bare if f"{key}:" in lines), default=len(lines))

    def with_comment(line: str) -> str:
        key = line.strip().partition(":")[0]
        return f"{line}  # {comments[key]}" if key in comments else line

    return "\n".join([*map(with_comment, lines[:first_bare]), *lines[first_bare:]]) + "\n"


def _parsed(text: str) -> Any:
    try:
        return yaml.load(str(text), Loader=_FastLoader)  # libyaml takes no subclass of str
    except (yaml.YAMLError, ValueError):
        return yaml.load(text, Loader=_Loader)  # whose errors say more


class _KeysOnce:
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
        found = super().construct_mapping(node, deep)  # type: ignore[misc]
        # YAML 1.1 takes a bare `on` for a truth value
        return {"on" if key is True else key: value for key, value in found.items()}


class _Loader(_KeysOnce, yaml.SafeLoader):
    """In Python."""


class _FastLoader(_KeysOnce, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """By libyaml, where PyYAML was built with it."""


class _Dumper(yaml.SafeDumper):
    """Writes tuples, the schedule, on one line."""


_Dumper.add_representer(
    tuple, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def build(cls: type[T], tree: Mapping[str, Any], source: str) -> T:
    """``cls`` from a mapping, every key known, every required one there, every scalar of its type.

    Args:
        source: names the file in errors.

    Raises:
        ConfigError: a key is unknown or missing, or a value of another type.
        ParamsError: a value is out of range.
    """
    adapter: TypeAdapter[T] = _adapter(cls)  # type: ignore[arg-type]  # mypy takes no type[T] for hashable
    # Only as JSON does strict validation take a mapping for a dataclass and a list for a tuple.
    text = to_json(tree, inf_nan_mode="constants", fallback=str)
    try:
        return adapter.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise user_error(error, cls, ParamsError).of(source) from None


@cache  # making one takes longer than all the rest of reading a file
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _place(error: Exception) -> str:
    """Where PyYAML stopped and why, without the lines that it shows."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ": " + str(error).replace("\n", " ")
    return f", line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', 'it ends there')}."
