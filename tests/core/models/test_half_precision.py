"""Cloud only in half precision: bit by bit what diffusers' own pipeline gives, for every family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXPipeline,
    DiffusionPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from ecdiff_core import (
    ECDiffParams,
    ECDiffPipeline,
    ModelRef,
    PairSpec,
    Sampling,
    TunedConfig,
    apply_ecdiff,
)
from ecdiff_core.sampling.sampler import advance
from ecdiff_core.sampling.schedulers import build_scheduler

from ...small_videos import TEXT_TOKENS

STEPS = 3
PROMPT = "a red circle"


@dataclass(frozen=True)
class Case:
    """A pair (the fixture that saves it), its pipeline class, a scheduler, and what only its call takes."""

    fixture: str
    pipeline_class: type[DiffusionPipeline]
    scheduler: str
    call: tuple[tuple[str, Any], ...] = ()


CASES = {
    "SD": Case("tiny_pair", StableDiffusionPipeline, "EulerDiscreteScheduler"),
    "SDXL, Euler": Case("sdxl_pair", StableDiffusionXLPipeline, "EulerDiscreteScheduler"),
    "SDXL, DDIM": Case("sdxl_pair", StableDiffusionXLPipeline, "DDIMScheduler"),
    "SD3": Case("sd3_pair_without_t5", StableDiffusion3Pipeline, "FlowMatchEulerDiscreteScheduler"),
    "CogVideoX": Case(
        "tiny_videos",
        CogVideoXPipeline,
        "CogVideoXDDIMScheduler",
        (("max_sequence_length", TEXT_TOKENS),),
    ),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cloud_only_is_bit_equal(case: Case, dtype: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(case.fixture)
    config = TunedConfig(
        pair=PairSpec("small", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge"))),
        params=ECDiffParams.cloud_only(STEPS),
        sampling=Sampling(STEPS, scheduler=case.scheduler, guidance_scale=3.0, dtype=dtype),
    )
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    ours = pipe(PROMPT, generator=torch.Generator().manual_seed(0)).latents

    absent = {"text_encoder_3": None, "tokenizer_3": None} if "without_t5" in case.fixture else {}
    own = case.pipeline_class.from_pretrained(folder / "cloud", dtype=getattr(torch, dtype), **absent)
    own.scheduler = build_scheduler(case.scheduler, own.scheduler)
    own.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    latents: list[Tensor] = []

    def keep(_own: object, _step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(tensors["latents"])
        return {}

    settings["callback_on_step_end"] = keep
    theirs = own(PROMPT, generator=generator, **settings, **dict(case.call))[0]
    assert ours.dtype is getattr(torch, dtype)
    assert ours.float().std() > 0.1
    assert torch.equal(ours, latents[-1])
    assert torch.equal(pipe.pair.family.decode(ours), theirs.float())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_thinned_edge_with_a_residual(dtype: str, tiny_pair: Path) -> None:
    """Cut at every step, gone on with: bit by bit the same; and the same inside diffusers' own pipeline."""
    config = TunedConfig(
        pair=PairSpec("small", ModelRef(str(tiny_pair / "cloud")), ModelRef(str(tiny_pair / "edge"))),
        params=ECDiffParams(2, 1, 0.3, 4, edge_k=2, edge_first=1, edge_last=1, residual=1.0),
        sampling=Sampling(9, scheduler="DDIMScheduler", guidance_scale=3.0, dtype=dtype),
    )
    assert config.plan().schedule == "2C1A1B1M2A2M"
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    uncut = pipe(PROMPT, generator=torch.Generator().manual_seed(0)).latents
    begun = pipe.prepare([PROMPT], generator=torch.Generator().manual_seed(0))
    loop = (config.plan(), *pipe.bind(begun.conditioning), pipe.estimator, config.factors)
    state = begun.start
    for step in range(1, config.plan().num_steps + 1):
        state = advance(state, *loop, until=step)
        assert state.residual is None or state.residual.dtype is torch.float32
    assert torch.equal(state.latents, uncut)
    assert uncut.dtype is getattr(torch, dtype)
    assert uncut.float().std() > 0.1

    own = StableDiffusionPipeline.from_pretrained(tiny_pair / "cloud", dtype=getattr(torch, dtype))
    own.scheduler = build_scheduler("DDIMScheduler", own.scheduler)
    own.set_progress_bar_config(disable=True)
    apply_ecdiff(own, config, edge=pipe.pair.edge)
    settings = {"num_inference_steps": 9, "guidance_scale": 3.0, "output_type": "latent"}
    hooked = own(PROMPT, generator=torch.Generator().manual_seed(0), **settings)[0].float()
    # The hook rounds what it gives back branch by branch, before guidance adds them up.
    rounding = torch.finfo(uncut.dtype).eps * float(uncut.float().std())
    assert (hooked - uncut.float()).abs().mean() < 4 * rounding
