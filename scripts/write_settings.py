"""Write what the schema says of the settings into conf/ (comments) and docs/settings.md (tables).

    python scripts/write_settings.py

Values in conf/ are for people to change and stay as they are. The tests see that nothing is left to write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import yaml

from ecdiff_core.methods import METHODS, get_method
from ecdiff_core.methods.method import shown
from ecdiff_tune.cli import COMMANDS
from ecdiff_tune.config import Settings
from ecdiff_tune.config.described import flow, meanings, with_comments
from ecdiff_tune.search import SEARCHES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"
FIRST = (
    *("method", "search", "search.k", "search.alpha", "search.s", "objective", "link"),
    *(
        "calibration.num_prompts",
        "calibration.file",
        "heldout.num_prompts",
        "sampling.num_inference_steps",
        "sampling.guidance_scale",
    ),
    *("params.p", "reference", "device", "dtype", "batch_size", "study", "resume"),
)
"""Settings and groups of the first table."""
METHODS_BEGIN = "| method | parameter | default | range | also tried | meaning |\n|---|---|---|---|---|---|\n"
METHODS_END = "\n\n| method | models |"
BEGIN = "<!-- From here on written by scripts/write_settings.py. -->\n"


def written() -> dict[Path, str]:
    """The files that hold anything of the settings, as they should be."""
    conf = ROOT / "conf"
    found = {conf / "base.yaml": with_comments((conf / "base.yaml").read_text("utf-8"))}
    for path in sorted(conf.glob("*/*.yaml")):
        text = path.read_text("utf-8")
        if path.parent.name != "tuned":  # configs for inference, not settings
            found[path] = with_comments(text, "" if "@package _global_" in text else path.parent.name)
    methods = ROOT / "docs" / "methods.md"
    head, begin, after = methods.read_text("utf-8").partition(METHODS_BEGIN)
    _, end, rest = after.partition(METHODS_END)
    found[methods] = head + begin + methods_rows() + end + rest
    before, _, _ = PAGE.read_text("utf-8").partition(BEGIN)
    return found | {PAGE: f"{before}{BEGIN}\n" + "\n".join(_sections())}


def _sections() -> Iterator[str]:
    yield "## Wanted first\n\n" + _table(FIRST)
    yield "## Searches\n\n" + _searches()
    names = [name for name in meanings() if "." not in name]
    groups = [name for name in names if is_dataclass(getattr(Settings(), name))]
    yield "## Of every command\n\n" + _table([name for name in names if name not in groups])
    for group in groups:
        inside = [name for name in meanings() if name.startswith(f"{group}.")]
        choices = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        chosen = f"Choices: {', '.join(f'`{group}={one}`' for one in choices)}.\n\n" if choices else ""
        yield f"## {group}: {meanings()[group]}\n\n{chosen}{_table(inside)}"


def _searches() -> str:
    """Every search, what it measures, and which settings it has beside the grids."""
    rows = []
    for name, spec in SEARCHES.items():
        heeded = ", ".join(f"`{one}`" for one in spec.reads if one not in ("name", "k", "alpha", "s"))
        rows.append(f"| `{name}` | {spec.about} | {heeded} |")
    return "| search | measures | settings `search.…` beside `k`, `alpha`, `s` |\n|---|---|---|\n" + _lines(
        rows
    )


def _table(names: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    rows = []
    for name in names:
        meaning = meanings()[name].replace("<", "&lt;").replace("|", "\\|")
        default = _chosen().get(name) or f"`{flow(_default(name))}`"
        rows.append(f"| `{name}` | {default} | {meaning} |")
    return "| setting | default | meaning |\n|---|---|---|\n" + _lines(rows)


def _lines(rows: list[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def _chosen() -> dict[str, str]:
    """The groups' own choices; of the search each command's."""
    of = {kind.search: name for name, kind in COMMANDS.items() if name in ("tune", "stage1")}
    found = {"search": ", ".join(f"`{search}` ({command})" for search, command in of.items())}
    for group in yaml.safe_load((ROOT / "conf" / "base.yaml").read_text("utf-8"))["defaults"]:
        if isinstance(group, dict):
            found |= {name: f"`{choice}`" for name, choice in group.items()}
    return found


def methods_rows() -> str:
    """A row a parameter of every acceleration, as the protocol has it."""
    rows = []
    for method in map(get_method, METHODS):
        for one in method.parameters:
            default = "measured" if one.default is None else shown(one.default) or "none"
            name = f"**`{one.name}`**" if one.name == method.dial else f"`{one.name}`"
            tried = ", ".join(map(shown, one.grid))
            label = f"`{method.name}`" if one is method.parameters[0] else ""
            span = ", ".join(one.names) or f"{one.low:g} … {one.high:g}"
            rows.append(f"| {label} | {name} | {default} | {span} | {tried} | {one.about} |")
    return "\n".join(rows)


def _default(name: str) -> object:
    value: object = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return None if value == "???" else value


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
