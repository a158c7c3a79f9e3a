"""Write what the schema says of the settings into conf/ (comments) and README.md (table).

    python scripts/write_settings.py

Values in conf/ are for people to change and stay as they are. The tests see that nothing is left to write.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from ecdiff_core.methods import METHODS, get_method
from ecdiff_tune.config import Settings
from ecdiff_tune.config.described import flow, meanings, with_comments

ROOT = Path(__file__).resolve().parents[1]
FIRST = (
    *("method", "search", "search.handoff_adapter", "search.extend", "pair.variant", "pair.lora", "params.p"),
    *("params.schedule", "calibration.num_prompts", "heldout.num_prompts", "calibration.file", "objective"),
    *("objective.w1", "objective.w2", "objective.w3", "objective.earliest_s", "sampling.num_inference_steps"),
    *("sampling.handoff", "sampling.estimator", "link", "latency", "batch_size", "offload", "vae_tiling"),
    *("vae_slicing", "sharing", "tracking", "study", "resume"),
)
"""Settings and groups in README's table."""
METHODS_BEGIN = "| method | parameter | default | range | also tried | meaning |\n|---|---|---|---|---|---|\n"
METHODS_END = "\n\n| method | models |"
BEGIN, END = "| setting | default | meaning |\n|---|---|---|\n", "\n\n"


def written() -> dict[Path, str]:
    """The files that hold anything of the settings, as they should be."""
    conf = ROOT / "conf"
    found = {conf / "base.yaml": with_comments((conf / "base.yaml").read_text("utf-8"))}
    for path in sorted(conf.glob("*/*.yaml")):
        text = path.read_text("utf-8")
        if path.parent.name != "tuned":  # configs for inference, not settings
            found[path] = with_comments(text, "" if "@package _global_" in text else path.parent.name)
    readme = (ROOT / "README.md").read_text("utf-8")
    before, begin, after = readme.partition(BEGIN)
    _, end, rest = after.partition(END)
    found[ROOT / "README.md"] = before + begin + _rows() + end + rest
    methods = ROOT / "docs" / "methods.md"
    before, begin, after = methods.read_text("utf-8").partition(METHODS_BEGIN)
    _, end, rest = after.partition(METHODS_END)
    return found | {methods: before + begin + methods_rows() + end + rest}


def _rows() -> str:
    chosen: dict[str, str] = {}
    for group in yaml.safe_load((ROOT / "conf" / "base.yaml").read_text("utf-8"))["defaults"]:
        chosen |= group if isinstance(group, dict) else {}
    rows = []
    for name in FIRST:
        default = chosen.get(name) or flow(_default(name))
        meaning = meanings()[name].replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{name}` | `{default}` | {meaning} |")
    return "\n".join(rows)


def methods_rows() -> str:
    """A row a parameter of every acceleration, as the protocol has it."""
    rows = []
    for method in map(get_method, METHODS):
        for one in method.parameters:
            default = "measured" if one.default is None else f"{one.default:g}"
            name = f"**`{one.name}`**" if one.name == method.dial else f"`{one.name}`"
            tried = ", ".join(f"{value:g}" for value in one.grid)
            label = f"`{method.name}`" if one is method.parameters[0] else ""
            span = f"{one.low:g} … {one.high:g}"
            rows.append(f"| {label} | {name} | {default} | {span} | {tried} | {one.about} |")
    return "\n".join(rows)


def _default(name: str) -> object:
    value: object = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return value


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
