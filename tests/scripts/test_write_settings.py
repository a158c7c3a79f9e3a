"""conf/ and docs/settings.md say of the settings what the schema says."""

from __future__ import annotations

import write_settings
from ecdiff_tune.config.described import meanings, with_comments


def test_conf_and_the_page_say_what_the_schema_says() -> None:
    for path, text in write_settings.written().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python scripts/write_settings.py"


def test_values_and_other_comments_stay() -> None:
    text = "# me\nseed: 9  # old\nsearch:\n  rungs: [0.2]\n  k: [1]  # other\nhydra:  # theirs\n"
    assert with_comments(text).splitlines() == [
        "# me",
        "seed: 9         # " + meanings()["seed"],
        "search:         # how (p, k, alpha, s) are searched; of an older study its own",
        "  rungs: [0.2]  # " + meanings()["search.rungs"],
        "  k: [1]        # approximated steps between two real calls",
        "hydra:  # theirs",
    ]
