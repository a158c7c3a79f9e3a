"""An endpoint's handler gives the pipeline's own image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.errors import ParamsError
from handler import EndpointHandler


def test_the_endpoint_s_image_is_the_pipeline_s(tiny_config: TunedConfig, tmp_path: Path) -> None:
    tiny_config.save(tmp_path / "ecdiff.yaml")
    handler = EndpointHandler(str(tmp_path))
    pipe = ECDiffPipeline.from_config(tiny_config)
    for parameters in ({}, {"seed": 3, "negative_prompt": "a star", "mode": "hybrid"}):
        image = handler({"inputs": "a ring", "parameters": parameters})
        given = {name: value for name, value in parameters.items() if name != "seed"}
        generator = torch.Generator().manual_seed(parameters.get("seed", 0))  # type: ignore[call-overload]
        own = pipe("a ring", generator=generator, **given).images[0]  # type: ignore[arg-type]
        assert image.tobytes() == own.tobytes()
    assert handler({"inputs": "a ring"}).size == (32, 32)
    with pytest.raises(ParamsError):
        handler({"inputs": "a ring", "parameters": {"guidance_scale": 99.0}})
