"""For Hugging Face Inference Endpoints: this file and `ecdiff.yaml` in a model repository, and
`ecdiff @ git+https://…` in its requirements.txt. Both models run on the endpoint's machine.
"""

from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from ecdiff_core import ECDiffPipeline


class EndpointHandler:
    def __init__(self, path: str = "") -> None:
        self.pipe = ECDiffPipeline.from_config(Path(path) / "ecdiff.yaml")

    def __call__(self, data: dict[str, Any]) -> Image:
        """The image of ``inputs``; ``parameters`` may hold ``seed``, ``negative_prompt`` and ``mode``."""
        given = dict(data.get("parameters") or {})
        generator = torch.Generator().manual_seed(int(given.pop("seed", 0)))
        image: Image = self.pipe(data["inputs"], generator=generator, **given).images[0]
        return image
