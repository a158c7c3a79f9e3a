"""One pipeline of very small models for each family, whose edge approximates and adds a residual."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig

FAMILIES = {
    "tiny_pair": Sampling(8, guidance_scale=3.0),
    "sdxl_pair": Sampling(8, scheduler="DPMSolverMultistepScheduler", guidance_scale=3.0),
    "sd3_pair": Sampling(8, scheduler="FlowMatchEulerDiscreteScheduler", guidance_scale=3.0),
    "tiny_videos": Sampling(8, scheduler="CogVideoXDDIMScheduler", guidance_scale=3.0),
}
RESIDUAL = ECDiffParams(p=3, k=1, alpha=0.3, s=5, edge_k=1, edge_first=1, edge_last=1, residual=0.5)


def config_of(folder: Path, sampling: Sampling, params: ECDiffParams = RESIDUAL) -> TunedConfig:
    refs = [ModelRef(str(folder / side)) for side in ("cloud", "edge")]
    return TunedConfig(PairSpec("tiny", *refs), params, sampling)


@pytest.fixture(scope="session", params=FAMILIES)
def pipe(request: pytest.FixtureRequest) -> ECDiffPipeline:
    folder = request.getfixturevalue(request.param)
    return ECDiffPipeline.from_config(config_of(folder, FAMILIES[request.param]), device="cpu")
