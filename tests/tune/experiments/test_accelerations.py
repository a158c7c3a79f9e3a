"""``compare`` with the accelerations of a very small CogVideoX."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ecdiff_core import MethodChoice, TunedConfig
from ecdiff_tune.evaluation.ledger import Ledger

from ..studies import Command, draw_nothing

STEPS = 16
"""Enough for every cache to have left out something."""
IN_TRANSFORMERS = ["first_block_cache", "taylorseer", "sea_cache", "pab", "faster_cache"]


def test_compare_tells_accelerations_apart(
    tiny_videos: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    where = [
        "pair.name=videos",
        f"pair.cloud={tiny_videos / 'cloud'}",
        f"pair.edge={tiny_videos / 'edge'}",
        f"output_dir={tmp_path}",
    ]
    tuned = command(
        "stage2",
        *where,
        f"sampling.num_inference_steps={STEPS}",
        "sampling.scheduler=CogVideoXDDIMScheduler",
        "sampling.guidance_scale=3.0",
        "params.p=3",
        "params.k=1",
        "params.alpha=0.3",
        "search.s=[11]",
        "calibration.num_prompts=1",
        "heldout.num_prompts=1",
        "device=cpu",
    )
    assert tuned.status == 0, tuned
    folder = tmp_path / "videos/default"
    own = MethodChoice("pab", {"spatial_attention_block_skip_range": 3})
    (folder / "methods").mkdir()
    replace(TunedConfig.load(folder / "ecdiff.yaml"), method=own).save(folder / "methods/pab.yaml")
    methods = ",".join(["cloud", "tuned", "fewer_own", "mag_cache", *IN_TRANSFORMERS])
    options = [f"compare.methods=[{methods}]", "compare.timed_prompts=1"]
    outcome = command("compare", "pair=custom", *where, *options)
    assert outcome.status == 0, outcome
    (line,) = [one for one in outcome.out.splitlines() if one.startswith("at their authors' values: ")]
    assert "first_block_cache, taylorseer, sea_cache, faster_cache" in line
    assert "pab" not in line
    text = (folder / "compare/table1.csv").read_text()
    assert "PAB (tuned)" in text
    assert "TaylorSeer (tuned)" not in text
    with closing(Ledger(folder / "ledger.sqlite")) as ledger:
        assert own.text in {key.sampler for key in ledger.configs()}
    quality = pd.read_csv(tmp_path / "videos/default/compare/table1.csv", index_col="method")
    cost = pd.read_csv(tmp_path / "videos/default/compare/table6.csv", index_col="method")
    assert {"fewer_own", "tuned", *IN_TRANSFORMERS} <= set(quality.index)
    skipping = IN_TRANSFORMERS[1:]  # the first block of so small a model changes much at each step
    assert quality.loc[skipping, "ssim"].nunique() == len(skipping)
    assert "left out: mag_cache (mag_ratios is not measured: run tune method=mag_cache)" in outcome.out
    assert cost.loc[IN_TRANSFORMERS, "seconds"].isna().all()
    factor = cost.loc["cloud", "seconds"] / cost.loc["cloud", "measured_seconds"]
    for name in IN_TRANSFORMERS:
        assert cost.loc[name, "comparable_seconds"] == pytest.approx(
            factor * cost.loc[name, "measured_seconds"]
        )
