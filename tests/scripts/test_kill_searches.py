"""The script that kills searches at random moments: it kills, goes on, and finds YAML files that differ."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

import kill_searches

from ..tune.studies import show_nothing

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def tiny(pair: Path) -> list[str]:
    return kill_searches.settings(
        [
            "pair=custom",
            "pair.name=tiny",
            f"pair.cloud={pair / 'cloud'}",
            f"pair.edge={pair / 'edge'}",
            "heldout.num_prompts=0",
            "sampling.guidance_scale=3.0",
        ]
    )


def test_killed_once(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show_nothing(monkeypatch)  # nor do the forks
    outcome = kill_searches.kill_search(tmp_path, "greedy", 1, tiny(tiny_pair))
    assert outcome.kills == 1
    assert outcome.compared >= 1
    assert outcome.differing == []


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("score: {quality: 0.5}", "score: {quality: 0.6}", "differs: ecdiff.yaml"),
        ("score: {quality: 0.5}", "score: {quality: .nan}", "differs: ecdiff.yaml"),
        ("score: {quality: .nan}", "score: {quality: 0.5}", "differs: ecdiff.yaml"),
        ("score: {quality: .inf}", "score: {quality: 0.5}", "differs: ecdiff.yaml"),
        ("score: {quality: .nan}", "score: {quality: .nan}", "same"),
        ("score: {quality: .inf}", "score: {quality: .inf}", "same"),
        ("params: {alpha: 0.5}", "params: {alpha: 0.50001}", "differs: ecdiff.yaml"),
        ("tied: [{k: 1}]", "tied: [{k: 2}]", "differs: ecdiff.yaml"),
        ("tied: [{k: 1}]", "tied: []", "differs: ecdiff.yaml"),
        ("score: {ci95: [0.5, 0.7]}", "score: {ci95: [0.5, 0.70001]}", "numbers 1e-05 apart"),
        ("provenance: {bias: 0.7}", "provenance: {bias: 0.70001}", "numbers 1e-05 apart"),
        ("params: {alpha: 0.5}", "params: {alpha: 0.5}", "same"),
    ],
)
def test_a_yaml_that_differs_is_found(one: str, other: str, verdict: str, tmp_path: Path) -> None:
    runs = [kill_searches.Run(tmp_path / name, ()) for name in ("undisturbed", "killed")]
    outcome = kill_searches.Outcome("greedy", 1.0)
    for text, run in zip((one, other), runs, strict=True):
        study = run.outputs / "tiny" / "default"
        study.mkdir(parents=True)
        (study / "study.json").touch()
        (study / "ecdiff.yaml").write_text(text)
    kill_searches.compare(*runs, outcome)
    assert outcome.verdict == verdict
    assert (tmp_path / "differs1").is_dir() == verdict.startswith("differs")
