"""``transfer`` on the tiny pair: what it goes by, writes and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_core.sampling.params import ECDiffParams

from ..studies import Command, Outcome, Study, refuses

STEPS = 10


@pytest.fixture(scope="module")
def source(tuned: tuple[Study, Outcome]) -> TunedConfig:
    """What was tuned at 12 steps."""
    return TunedConfig.load(tuned[0].folder / "ecdiff.yaml")


def moved(command: Command, config: TunedConfig, tmp_path: Path, *more: str) -> tuple[Outcome, Path]:
    """Transfer a config to 10 steps on two prompts; the folder that it writes to."""
    config.save(tmp_path / "own.yaml")
    where = [f"transfer.config={tmp_path / 'own.yaml'}", f"output_dir={tmp_path / 'outputs'}", "device=cpu"]
    how = [f"sampling.num_inference_steps={STEPS}", "calibration.num_prompts=2"]
    return command("transfer", *where, *how, *more), tmp_path / "outputs" / "tiny" / "transfer"


def test_a_config_goes_to_another_number_of_steps(
    source: TunedConfig, command: Command, tmp_path: Path
) -> None:
    outcome, folder = moved(command, source, tmp_path, "transfer.tolerance=1")
    assert outcome.status == 0, outcome
    found = TunedConfig.load(folder / "ecdiff.yaml")
    assert found.pair == source.pair
    assert found.sampling == replace(source.sampling, num_inference_steps=STEPS)
    assert found.params.alpha == source.params.alpha
    assert found.score is not None
    assert found.provenance is not None
    assert found.score["calls"]["cloud"] == found.plan().cloud_calls
    assert found.provenance["search"] == "transfer"
    assert found.provenance["calibration"]["num_prompts"] == 2
    assert found.provenance["from"]["params"] == {**source.params.tree()}
    assert "measured on 2 prompts" in outcome.out
    calls = pd.read_csv(folder / "calls.csv").set_index("part")
    assert calls.loc["reference", "cloud"] == 2 * STEPS
    assert calls.loc["transfer", "cloud"] <= 2 * 2 * STEPS


def test_what_scores_lower_than_the_best_predicted_is_refused(
    source: TunedConfig, command: Command, tmp_path: Path
) -> None:
    alone = replace(source, params=ECDiffParams.cloud_only(source.sampling.num_steps))
    outcome, folder = moved(command, alone, tmp_path)
    refuses(outcome, key="transfer.tolerance")
    assert not (folder / "ecdiff.yaml").exists()


def test_other_weights_are_refused(source: TunedConfig, command: Command, tmp_path: Path) -> None:
    edge = replace(source.pair.edge, fingerprint="0" * 16)
    other = replace(source, pair=replace(source.pair, edge=edge))
    outcome, _ = moved(command, other, tmp_path)
    refuses(outcome, key="edge.fingerprint", got=source.pair.edge.fingerprint, expected="0" * 16)


def test_a_config_is_needed(command: Command) -> None:
    refuses(command("transfer", "pair=shapes"), key="transfer.config")
