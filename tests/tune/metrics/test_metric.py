"""The chosen metrics of a set of images, and what is told where one cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecdiff_tune.metrics.choice import METRICS, MetricChoice
from ecdiff_tune.metrics.clip_score import CLIPScore
from ecdiff_tune.metrics.images import MetricError, psnr, ssim
from ecdiff_tune.metrics.lpips import LPIPS, NETS
from ecdiff_tune.metrics.metric import load_metrics, measure
from ecdiff_tune.report.comparison import better

from ...refusals import refused
from .. import small_clip
from .test_lpips import images, saved

PROMPTS = ["a red circle", "two blue stars"]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> MetricChoice:
    folder = tmp_path_factory.mktemp("weights")
    weights = saved(folder / "alexnet.pth", NETS["alex"].layers())
    return MetricChoice(list(METRICS), "alex", str(weights), str(small_clip.save(folder / "clip")))


@pytest.mark.parametrize("frames", [None, 2])
def test_all_metrics(chosen: MetricChoice, frames: int | None) -> None:
    one, cloud = images(4, 0), images(4, 1)
    prompts = PROMPTS * 2
    if frames:
        one, cloud, prompts = one.unflatten(0, (2, frames)), cloud.unflatten(0, (2, frames)), PROMPTS
    found = measure(load_metrics(chosen), one, cloud, prompts)
    expected = {
        "ssim": ssim(one, cloud),
        "psnr": psnr(one, cloud),
        "lpips": LPIPS("alex", Path(chosen.lpips_weights or ""))(one, cloud),
        "clip": CLIPScore(Path(chosen.clip or ""))(one, prompts),
    }
    assert found == {name: values.tolist() for name, values in expected.items()}
    assert list(found) == list(METRICS)


def test_a_network_is_loaded_once(chosen: MetricChoice) -> None:
    metrics = load_metrics(chosen)
    Path(chosen.lpips_weights or "").rename(f"{chosen.lpips_weights}.away")
    try:
        again = [measure(metrics, images(2, 0), images(2, 1), PROMPTS) for _ in range(2)]
    finally:
        Path(f"{chosen.lpips_weights}.away").rename(chosen.lpips_weights or "")
    assert again[0] == again[1]


def test_the_order_is_the_users_and_only_those_are_measured() -> None:
    metrics = load_metrics(MetricChoice(["psnr", "ssim"]))
    assert [(one.name, one.heading) for one in metrics] == [
        ("psnr", "PSNR, dB"),
        ("ssim", "SSIM"),
    ]
    assert list(measure(metrics, images(2, 0), images(2, 1), PROMPTS)) == ["psnr", "ssim"]


def test_less_lpips_is_better() -> None:
    assert {name: better(name) for name in METRICS} == {"ssim": 1, "psnr": 1, "lpips": -1, "clip": 1}


def test_images_that_are_not_finite_have_no_value(chosen: MetricChoice) -> None:
    broken = images(2, 0)
    broken[1, 0, 0, 0] = torch.nan
    found = measure(load_metrics(chosen), broken, images(2, 1), PROMPTS)
    for values in found.values():
        assert values[0] is not None
        assert values[1] is None


def test_missing_weights_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    with refused(MetricError, key="metrics.lpips_weights", got=str(tmp_path / "none.pth")):
        load_metrics(MetricChoice(["ssim", "lpips"], lpips_weights=str(tmp_path / "none.pth")))
    with refused(MetricError, key="metrics.clip", expected=["config.json"]):
        load_metrics(MetricChoice(["clip"], clip=str(tmp_path)))
