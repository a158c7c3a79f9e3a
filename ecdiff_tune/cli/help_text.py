"""``--help`` of a command: every setting with its meaning."""

from __future__ import annotations

import yaml

from ecdiff_tune.config.described import as_yaml, with_comments

SETTINGS = "== Settings"
"""Begins the line in a help template that the settings follow, as YAML."""


def explained(text: str) -> str:
    """A help text whose settings have their meanings as comments, a line a setting."""
    before, found, after = text.partition(SETTINGS)
    title, _, settings = after.partition("\n")
    tree = yaml.safe_load(settings) if found else None
    if not isinstance(tree, dict):
        return text
    return f"{before}{found}{title}\n{with_comments(as_yaml(tree))}"
