"""LPIPS on networks with random weights: against torchmetrics' own, by its properties, and its refusals."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from ecdiff_tune.metrics.images import MetricError
from ecdiff_tune.metrics.lpips import LPIPS, NETS

from ...refusals import refused


@pytest.fixture(scope="module", params=sorted(NETS))
def net(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def layers(net: str) -> nn.Sequential:
    torch.manual_seed(0)
    return NETS[net].layers()


@pytest.fixture(scope="module")
def weights(net: str, layers: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's: the classifier, which LPIPS has no use for, is in it too."""
    return saved(tmp_path_factory.mktemp(net) / NETS[net].file, layers)


@pytest.fixture(scope="module")
def distance(net: str, weights: Path) -> LPIPS:
    return LPIPS(net, weights)


def saved(path: Path, layers: nn.Sequential) -> Path:
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return path


def images(count: int, seed: int, side: int = 48) -> Tensor:
    return torch.rand(count, 3, side, side + 16, generator=torch.Generator().manual_seed(seed))


def theirs(net: str, features: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchmetrics' LPIPS over the same network, which it would take from torchvision."""
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: features)
    return torchmetrics_lpips._NoTrainLpips(net=net)


def test_it_is_torchmetrics(
    net: str, layers: nn.Sequential, distance: LPIPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, noise = images(3, 0), images(3, 1)
    amounts = torch.tensor([0.01, 0.1, 1.0])[:, None, None, None]
    other = (1 - amounts) * one + amounts * noise
    expected = theirs(net, layers, monkeypatch)(one, other, normalize=True).flatten()
    torch.testing.assert_close(distance(one, other), expected, rtol=1e-4, atol=1e-7)
    assert expected.min() > 0


def test_the_networks_are_torchvisions(net: str, layers: nn.Sequential) -> None:
    try:
        from torchvision import models
    except (ImportError, RuntimeError):  # a CUDA build beside a CPU build of torch
        pytest.skip("torchvision does not load here")
    makers: dict[str, Callable[..., Any]] = {"alex": models.alexnet, "vgg": models.vgg16}
    features = makers[net](weights=None).features.eval()
    features.load_state_dict(layers.state_dict())
    one = images(1, 0)
    ends = NETS[net].ends[-1]
    torch.testing.assert_close(features[:ends](one), layers(one))


def test_equal_images_have_no_distance(distance: LPIPS) -> None:
    one = images(2, 0)
    assert distance(one, one).tolist() == [0.0, 0.0]


def test_it_grows_with_the_noise_and_is_symmetric(distance: LPIPS) -> None:
    one, noise = images(1, 0), images(1, 1)
    found = [distance(one, (1 - amount) * one + amount * noise).item() for amount in (0.05, 0.2, 0.5, 1.0)]
    assert found == sorted(found)
    assert found[-1] > 4 * found[0] > 0
    assert distance(noise, one).item() == pytest.approx(found[-1], rel=1e-5)


def test_a_videos_is_the_mean_of_its_frames(distance: LPIPS) -> None:
    one, other = images(4, 0).unflatten(0, (2, 2)), images(4, 1).unflatten(0, (2, 2))
    frames = distance(one.flatten(0, 1), other.flatten(0, 1))
    torch.testing.assert_close(distance(one, other), frames.unflatten(0, (2, 2)).mean(dim=1))
    assert frames.std() > 0


def test_half_precision_is_measured_in_single(distance: LPIPS) -> None:
    one, other = images(1, 0).half(), images(1, 1).half()
    torch.testing.assert_close(distance(one, other), distance(one.float(), other.float()))


def test_the_smallest_images(distance: LPIPS) -> None:
    small = torch.rand(1, 3, 32, 32)
    assert torch.isfinite(distance(small, 1 - small)).all()
    with refused(MetricError, key="metrics.names", got=(32, 31), expected=">= 32"):
        distance(small[..., :31, :], small[..., :31, :])


def test_other_shapes_are_refused(distance: LPIPS) -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3, 32, 32\) and \(1, 3, 32, 48\)"):
        distance(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 48))


def test_the_cache_is_torchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    advice = re.compile(re.escape(f"`curl --create-dirs -o {cached} {url}`"))
    with refused(MetricError, key="metrics.lpips_weights", got=str(cached), advice=advice):
        LPIPS("alex")
    cached.parent.mkdir()
    one = images(1, 0)
    assert LPIPS("alex", saved(cached, NETS["alex"].layers()))(one, 1 - one) == LPIPS("alex")(one, 1 - one)


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    with refused(MetricError, key="metrics.lpips_weights", got=str(path), advice=re.compile("vgg16")):
        LPIPS("vgg", path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps({"a": SimpleNamespace()}, 2)])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "alexnet.pth"
    path.write_bytes(content)
    with refused(MetricError, key="metrics.lpips_weights", got=str(path)):
        LPIPS("alex", path)


def test_another_networks_weights(net: str, weights: Path) -> None:
    (other,) = set(NETS) - {net}
    with refused(MetricError, key="metrics.lpips_weights", expected=NETS[other].file):
        LPIPS(other, weights)
    path = weights.with_name("list.pth")
    torch.save([1, 2], path)
    with refused(MetricError, key="metrics.lpips_weights", got=str(path)):
        LPIPS(net, path)
