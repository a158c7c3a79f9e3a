"""Learned perceptual image patch similarity (EC-Diff eq. 31), with nothing but torch and torchmetrics.

torchmetrics carries the trained weights of LPIPS' last layers, but for the network under them it wants
torchvision, whose wheel on PyPI does not load beside a CPU build of torch. LPIPS needs that network's
convolutions alone, so they are built here and read from torchvision's own file of weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torchmetrics
from torch import Tensor, nn

from ecdiff_tune.metrics.images import MetricError, check_shapes, frame_means

SHORTEST_SIDE = 32
"""Pixels: smaller images vanish in the networks' pooling."""
_URL = "https://download.pytorch.org/models/"
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the input within -1 … 1: ImageNet's mean and deviation as LPIPS was trained with."""


def _alexnet() -> nn.Sequential:
    """The convolutions of AlexNet (Krizhevsky 2014), numbered as torchvision's ``features``."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _vgg16() -> nn.Sequential:
    """The convolutions of VGG16 (Simonyan and Zisserman 2014), numbered as torchvision's ``features``."""
    widths = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512)
    layers: list[nn.Module] = []
    last = 3
    for width in widths:
        if width is None:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
            last = width
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Net:
    """A network whose features LPIPS compares.

    Args:
        title: as people write it.
        file: of torchvision's weights.
        layers: builds its convolutions.
        ends: of the blocks whose features are compared: so many layers are behind each.
    """

    title: str
    file: str
    layers: Callable[[], nn.Sequential]
    ends: tuple[int, ...]

    @property
    def cached(self) -> Path:
        """Where torchvision keeps the weights."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


NETS = {
    "alex": Net("AlexNet", "alexnet-owt-7be5be79.pth", _alexnet, (2, 5, 8, 10, 12)),
    "vgg": Net("VGG16", "vgg16-397923af.pth", _vgg16, (4, 9, 16, 23, 30)),
}


class LPIPS:
    """LPIPS of one network, loaded once; call it with images.

    Args:
        name: of ``NETS``.
        weights: torchvision's file of that network's weights; None is the one in torch's cache.
        device: where to compute.

    Raises:
        MetricError: the file is missing, damaged, or another network's.
    """

    def __init__(
        self, name: str = "alex", weights: Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        net = NETS[name]
        layers = _loaded(net, net.cached if weights is None else weights)
        self._blocks = [layers[a:b].to(device).requires_grad_(False) for a, b in pairwise((0, *net.ends))]
        self._channels = [one.to(device) for one in _channel_weights(name)]
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance, 0 is equal; of videos the mean of the frames'.

        Args:
            images, reference: RGB in 0 … 1, shape (n, 3, height, width), of videos
                (n, frames, 3, height, width); at least 32 pixels a side.

        Returns:
            One value an image or video, shape (n,), float32, on the CPU.

        Raises:
            MetricError: the images are too small.
        """
        check_shapes(images, reference)
        if min(images.shape[-2:]) < SHORTEST_SIDE:
            width, height = images.shape[-1], images.shape[-2]
            raise MetricError(
                f"LPIPS needs images of at least {SHORTEST_SIDE} pixels a side, got {width}x{height}.",
                key="metrics.names",
                got=(width, height),
                expected=f">= {SHORTEST_SIDE}",
                advice="Leave lpips out of metrics.names.",
            )
        if images.ndim == 5:
            return frame_means(self, images, reference)
        # One pair at a time: the first features of an image take up to twenty times its own memory.
        return torch.stack([self._distance(*pair) for pair in zip(images, reference, strict=True)])

    def _distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Eq. 31: weighted squared differences of unit features, a mean over places, summed over blocks."""
        features = 2 * torch.stack([image, reference]).to(self._device, torch.float32) - 1
        shift, scale = (features.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        features = (features - shift) / scale
        total = torch.zeros((), device=self._device)
        for block, channels in zip(self._blocks, self._channels, strict=True):
            features = block(features)
            one, other = features / (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
            total = total + (channels * (one - other).square()).sum(dim=0).mean()
        return total.cpu()


def _channel_weights(name: str) -> list[Tensor]:
    """LPIPS' trained weights of the features' channels, (channels, 1, 1) a block, out of torchmetrics."""
    path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{name}.pth"
    trained = torch.load(path, map_location="cpu", weights_only=True)
    return [trained[f"lin{i}.model.1.weight"][0] for i in range(len(NETS[name].ends))]


def _loaded(net: Net, path: Path) -> nn.Sequential:
    """The network's convolutions with the weights of a file."""
    if not path.is_file():
        raise MetricError(
            f"LPIPS needs torchvision's weights of {net.title}, but there is no file {path}.",
            key="metrics.lpips_weights",
            got=str(path),
            advice=f"Fetch them with `curl --create-dirs -o {net.cached} {_URL}{net.file}`, or name them "
            "with metrics.lpips_weights.",
        )
    layers, prefix = net.layers(), "features."
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        own = {key.removeprefix(prefix): one for key, one in found.items() if key.startswith(prefix)}
        fits = {key: one.shape for key, one in own.items()} == {
            key: one.shape for key, one in layers.state_dict().items()
        }
    except (OSError, EOFError, RuntimeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        line, advice = f"Cannot read weights from {path}.", "Delete it and fetch it again."
        raise MetricError(line, key="metrics.lpips_weights", got=str(path), advice=advice) from error
    if not fits:
        raise MetricError(
            f"Expected torchvision's weights of {net.title} ({net.file}) in {path}, got others.",
            key="metrics.lpips_weights",
            got=str(path),
            expected=net.file,
            advice="Check metrics.lpips_net and metrics.lpips_weights.",
        )
    layers.load_state_dict(own)
    return layers
