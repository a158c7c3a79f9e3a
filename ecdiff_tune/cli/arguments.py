"""Arguments as Hydra's grammar can read them: flags first, quotes around paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from ecdiff_core.errors import ECDiffError

_PATHS = {
    *("pair.cloud_config", "pair.edge_config", "pair.cloud_subfolder", "pair.edge_subfolder"),
    *("pair.cloud", "pair.edge", "calibration.file", "output_dir", "latency", "rerank.latency"),
    *("metrics.clip", "metrics.lpips_weights", "search.storage", "search.artifacts"),
    *("compare.schedule", "errors.config", "transfer.config", "export.config"),
    *("link.url", "link.token_file"),
}
"""Settings whose value may hold whatever a path may."""
_PLAIN = re.compile(r"[\w./:-]*")
"""A path that Hydra's grammar reads as it is."""


def written_out(command: str, arguments: Sequence[str]) -> list[str]:
    """``export to=FORM`` and ``link=URL`` as the settings that they are.

    >>> written_out("export", ["to=diffusers", "study=a"]), written_out("tune", ["to=x"])
    (['export.to=diffusers', 'study=a'], ['to=x'])
    >>> written_out("tune", ["link=http://gpu:8000", "link=wifi"])
    ['link=server', 'link.url=http://gpu:8000', 'link=wifi']
    """
    found: list[str] = []
    for one in arguments:
        if command == "export" and one.startswith("to="):
            found.append(f"export.{one}")
        elif one.startswith(("link=http://", "link=https://")):
            found += ["link=server", one.replace("=", ".url=", 1)]
        else:
            found.append(one)
    return found


def paths_quoted(arguments: Sequence[str]) -> list[str]:
    """Paths in Hydra's quotes, ``~`` as the home folder; lists of a sweep and what is quoted stay.

    >>> paths_quoted(["output_dir=a b", "pair.cloud=/x", "study=a", "output_dir='it'"])
    ["output_dir='a b'", 'pair.cloud=/x', 'study=a', "output_dir='it'"]
    """
    sweep = {"-m", "--multirun"} & set(arguments)
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        as_it_is = _PLAIN.fullmatch(value) or value[0] in "'\"" or "${" in value or (sweep and "," in value)
        if key in _PATHS and not as_it_is:
            argument = f"{key}={in_quotes(os.path.expanduser(value))}"
        quoted.append(argument)
    return quoted


def in_quotes(value: str) -> str:
    """A text in Hydra's quotes."""
    # In Hydra's quotes a backslash is one of itself, but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", _escaped, value) + "'"


def _escaped(found: re.Match[str]) -> str:
    return 2 * found[1] + ("\\'" if found[2] else "")


def quoting_hint(override: str) -> str:
    """How to write a value that Hydra's grammar cannot read as it is; nothing for broken lists."""
    key, equals, value = override.partition("=")
    if not (equals and key and value) or value[0] in "[{'\"" or "'" in value:
        return ""
    return f" A value with spaces or any of ~ = , ( ) goes into quotes of its own: \"{key}='{value}'\"."


def refuse_deletions(arguments: Sequence[str]) -> None:
    """Refuse Hydra's ``~KEY``: every setting is needed.

    Raises:
        ECDiffError: there is one.
    """
    for one in arguments:
        key = one.removeprefix("~").partition("=")[0]
        if one.startswith("~") and key.partition(".")[0].partition("/")[0] != "hydra":
            raise ECDiffError(
                f"Expected {key} to be set, not taken out with ~{key}: leave it out for its default, or give "
                f"{key}=VALUE.",
                key=key,
            )


_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
_WITH_VALUE |= {"--config-dir", "-cd"}
"""Hydra's flags that the next argument belongs to."""


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Hydra takes its flags before the settings alone.

    >>> flags_first(["study=a,b", "-m", "seed=1", "--cfg", "job"])
    ['-m', '--cfg', 'job', 'study=a,b', 'seed=1']
    """
    flags: list[str] = []
    settings: list[str] = []
    left = iter(arguments)
    for one in left:
        (flags if one.startswith("-") else settings).append(one)
        if one in _WITH_VALUE:
            flags += [value for value in [next(left, None)] if value is not None]
    return flags + settings


def command_first(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command, and what is left: the first that is neither a flag, nor a flag's value, nor KEY=VALUE;
    the very first where there is none.

    >>> command_first(["--config-dir", "report", "seed=1", "tune", "study=noise"])
    ('tune', ['--config-dir', 'report', 'seed=1', 'study=noise'])
    """
    values = {i + 1 for i, one in enumerate(arguments) if one in _WITH_VALUE}
    plain = (i for i, one in enumerate(arguments) if i not in values and not re.match(r"-|[^=]*=", one))
    place = next(plain, 0)
    return arguments[place], [*arguments[:place], *arguments[place + 1 :]]


_KEEPING = ("hydra.sweep.", "hydra.output_subdir=", "hydra.run.")
"""Beginnings of settings by which somebody asks for what Hydra writes."""


@contextmanager
def swept_to_scratch(arguments: Sequence[str]) -> Iterator[list[str]]:
    """More arguments for a sweep: Hydra writes its multirun.yaml to a folder that is deleted at the end.

    None where there is no sweep, or somebody says where to.
    """
    if not {"-m", "--multirun"} & set(arguments) or any(
        one.lstrip("+").startswith(_KEEPING) for one in arguments
    ):
        yield []
        return
    with TemporaryDirectory(prefix="ecdiff-") as folder:
        yield [f"hydra.sweep.dir={in_quotes(folder)}"]
