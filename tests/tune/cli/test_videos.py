"""The tuner on videos: metrics by frame, references read on demand."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from ecdiff_core.config import TunedConfig
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation import reference_runs
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.evaluation.reference_files import DamagedReferenceError
from ecdiff_tune.metrics.images import psnr, ssim
from ecdiff_tune.report import image_grid

from ...refusals import refused
from ..studies import Command

VIDEO = (9, 3, 32, 32)


@pytest.fixture(scope="module")
def video_pipe(video_config: TunedConfig) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(video_config, device="cpu")


def test_metrics_are_the_means_over_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    one, noise = torch.rand(2, 2, 5, 3, 16, 24, generator=generator)
    other = 0.8 * one + 0.2 * noise
    other[1] = 0.5 * one[1] + 0.5 * noise[1]
    for metric in (ssim, psnr):
        found = metric(one, other)
        expected = [
            np.mean([metric(one[i, frame][None], other[i, frame][None]).item() for frame in range(5)])
            for i in range(2)
        ]
        assert found.shape == (2,)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_psnr_of_a_video_by_hand() -> None:
    black = torch.zeros(1, 2, 3, 16, 16)
    other = black.clone()
    other[0, 0] += 0.1  # 20 dB
    other[0, 1] += 0.01  # 40 dB
    assert psnr(black, other).item() == pytest.approx(30.0, abs=1e-3)
    other[0, 1] = 0
    assert psnr(black, other).item() == float("inf")


def test_samples_show_the_middle_frame(tmp_path: Path) -> None:
    video = torch.zeros(1, 9, 3, 32, 32)
    video[:, 4, 0] = 1  # red
    image_grid.samples(tmp_path / "video.png", [("cloud", video)], ["a"])
    image_grid.samples(tmp_path / "still.png", [("cloud", video[:, 4])], ["a"])
    one, other = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("video", "still"))
    assert np.array_equal(one, other)


def test_latency_of_videos(video_pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_module, "WARM_UP_CALLS", 0)
    monkeypatch.setattr(latency_module, "CALLS", 2)
    profile = latency_module.measure(video_pipe, Link(mbps=1.0))
    values = 3 * 4 * 4 * 4 + 2 * 24 * 16
    assert profile.transfer_seconds == Link(mbps=1.0).transfer_seconds(values)
    assert profile.decode.median > 0


def test_references_are_read_when_asked_for(video_pipe: ECDiffPipeline, tmp_path: Path) -> None:
    prompts = CalibrationSet(("a red circle",), (5,))
    made = reference_runs.make(video_pipe, prompts, tmp_path, batches=Batches(1), on_prompts=lambda _: None)
    one = made.prompts[0]
    assert one.gram.shape == (9, 9)
    output = video_pipe("a red circle", generator=torch.Generator().manual_seed(5), mode="cloud")
    expected = video_pipe.pair.family.decode(output.latents)[0]
    assert one.cloud.shape == VIDEO
    assert one.cloud.dtype == torch.float16
    torch.testing.assert_close(one.cloud.float(), expected, atol=1e-3, rtol=0)
    assert not any(isinstance(value, torch.Tensor) and value.numel() > 100 for value in vars(one).values())
    one.path.unlink()
    with refused(DamagedReferenceError, key=one.path):
        _ = one.edge


def test_the_tuner_compares_handoff_adapters(tiny_videos: Path, tmp_path: Path, command: Command) -> None:
    outcome = command(
        "stage2",
        "pair.name=videos",
        f"pair.cloud={tiny_videos / 'cloud'}",
        f"pair.edge={tiny_videos / 'edge'}",
        "sampling.num_inference_steps=6",
        "sampling.scheduler=CogVideoXDDIMScheduler",
        "sampling.guidance_scale=3.0",
        "params.p=2",
        "params.k=1",
        "params.alpha=0.3",
        "search.s=[4]",
        "search.handoff_adapter=[identity,matched]",
        "calibration.num_prompts=2",
        "heldout.num_prompts=0",
        "latency=profile",
        f"output_dir={tmp_path}",
    )
    assert outcome.status == 0, outcome
    trials = pd.read_csv(tmp_path / "videos/default/trials.csv")
    assert trials["handoff_adapter"].tolist() == ["identity", "matched"]
    assert trials["s"].tolist() == [4, 4]
    best = trials.sort_values("objective", ascending=False).iloc[0]
    assert trials["quality"].nunique() == 2
    assert "s=4 matched" in outcome.out
    config = TunedConfig.load(tmp_path / "videos/default/ecdiff.yaml")
    assert config.sampling.handoff_adapter == best["handoff_adapter"]
