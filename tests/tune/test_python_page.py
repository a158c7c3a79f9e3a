"""docs/python.md: its snippets run one after the other, as a reader would, on the tiny pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecdiff_core import TunedConfig
from ecdiff_tune import Study
from ecdiff_tune.searches import Point
from ecdiff_tune.testing import SearchTests

from .. import hooking
from ..test_docs_commands import ROOT, blocks_of

TUNED, OWN, SEEDS, SEARCH = (text for _, text in blocks_of(ROOT / "docs" / "python.md", "python"))


def run(text: str, **names: Any) -> dict[str, Any]:
    exec(compile(text, "python.md", "exec", dont_inherit=True), names)
    return names


@pytest.mark.usefixtures("unshown")
def test_a_pair_is_tuned(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cloud, edge = (hooking.load(tiny_pair / side) for side in ("cloud", "edge"))
    study: Study = run(TUNED, pipe=cloud, edge_pipe=edge)["study"]
    assert study.path == tmp_path / "outputs" / "mine" / "default"
    assert TunedConfig.load("mine.yaml") == study.config
    assert study.config.sampling.num_inference_steps == 20


def test_a_function_is_searched() -> None:
    assert run(OWN)["search"].best == Point(k=3, alpha=0.3)
    search = run(SEEDS)["search"]
    assert search.best == Point(k=3)
    # The first one is measured whole, to be held against.
    assert search.pruned == dict.fromkeys((Point(k=k) for k in (2, 4, 5)), "race after 5 prompts")


def test_a_search_of_ones_own_passes_its_tests() -> None:
    tests: SearchTests = run(SEARCH)["TestBackwards"]()
    for name in [one for one in dir(tests) if one.startswith("test_")]:
        getattr(tests, name)()
