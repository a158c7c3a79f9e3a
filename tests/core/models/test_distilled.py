"""U-Nets that take the guidance scale as an input (LCM), alone and beside one that is guided as usual."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from ecdiff_core import (
    ECDiffParams,
    ECDiffPipeline,
    ModelRef,
    PairSpec,
    Sampling,
    TunedConfig,
    apply_ecdiff,
    remove_ecdiff,
)
from ecdiff_core.errors import PairError
from ecdiff_core.models.compatibility import Verdict, compare
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.sampling.plan import Mode
from ecdiff_core.sampling.schedulers import build_scheduler

from ... import small_unets
from ...hooking import assert_close
from ...refusals import refused

STEPS = 6
PROMPTS = ["a large red circle left of a small blue star", "a small green ring"]
NEGATIVES = ["a blue star", "dark"]
SCALE = 7.5
WIDTHS = {"distilled": 16, "wider": 24}
CLASSES: dict[str, type[DiffusionPipeline]] = {
    "sd": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
}


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models named ``plain``, ``distilled`` and ``wider``, the latter two with ``time_cond_proj_dim``."""
    sdxl = kind == "sdxl"
    make = small_unets.sdxl_unet if sdxl else small_unets.sd_unet
    save = small_unets.save_sdxl_models if sdxl else small_unets.save_sd_models
    changes: dict[str, Any] = {"layers_per_block": 1}
    if sdxl:
        changes["transformer_layers_per_block"] = 1
    made = tmp_path_factory.mktemp(kind)
    distilled = {name: partial(make, time_cond_proj_dim=width, **changes) for name, width in WIDTHS.items()}
    save(made, {"plain": partial(make, **changes), **distilled})
    return made


def config_of(folder: Path, cloud: str, edge: str, scale: float = SCALE) -> TunedConfig:
    """A config whose plan is ``2C1A1C2E``."""
    return TunedConfig(
        pair=PairSpec("small", ModelRef(str(folder / cloud)), ModelRef(str(folder / edge))),
        params=ECDiffParams(p=2, k=1, alpha=0.5, s=4),
        sampling=Sampling(STEPS, guidance_scale=scale),
    )


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]


@cache
def own_pipeline(kind: str, folder: Path) -> Any:
    """diffusers' own."""
    own = CLASSES[kind].from_pretrained(folder)
    own.set_progress_bar_config(disable=True)
    own.scheduler = build_scheduler("DDIMScheduler", own.scheduler)
    return own


@cache
def our_pair(folder: Path, cloud: str, edge: str) -> Pair:
    return load_pair(config_of(folder, cloud, edge).pair, device=torch.device("cpu"), dtype=torch.float32)


def our_pipeline(folder: Path, cloud: str, edge: str, scale: float = SCALE) -> ECDiffPipeline:
    return ECDiffPipeline(our_pair(folder, cloud, edge), config_of(folder, cloud, edge, scale))


def run(own: Any, scale: float = SCALE) -> Tensor:
    settings = {"num_inference_steps": STEPS, "guidance_scale": scale, "output_type": "latent"}
    latents: Tensor = own(PROMPTS, negative_prompt=NEGATIVES, generator=seeded(), **settings)[0]
    return latents


def ours(folder: Path, cloud: str, edge: str, mode: Mode = "ecdiff", scale: float = SCALE) -> Tensor:
    pipe = our_pipeline(folder, cloud, edge, scale)
    return pipe(PROMPTS, negative_prompt=NEGATIVES, generator=seeded(), mode=mode).latents


@pytest.mark.parametrize("scale", [SCALE, 1.0])
def test_cloud_only_and_edge_only_equal_diffusers(kind: str, folder: Path, scale: float) -> None:
    distilled, plain = (run(own_pipeline(kind, folder / name), scale) for name in ("distilled", "plain"))
    assert_close(ours(folder, "distilled", "plain", "cloud", scale), distilled)
    assert_close(ours(folder, "distilled", "plain", "edge", scale), plain)
    assert_close(ours(folder, "plain", "distilled", "edge", scale), distilled)


def test_the_scale_is_given_as_an_embedding(folder: Path) -> None:
    low, high = (ours(folder, "distilled", "distilled", "cloud", scale) for scale in (2.0, SCALE))
    assert (low - high).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("cloud", "edge", "halves"),
    [("distilled", "wider", 1), ("distilled", "plain", 2), ("plain", "distilled", 2)],
)
def test_what_is_encoded_without_the_prompt(folder: Path, cloud: str, edge: str, halves: int) -> None:
    embeds = our_pipeline(folder, cloud, edge).encode(PROMPTS, NEGATIVES).tensors["encoder_hidden_states"]
    assert len(embeds) == halves * len(PROMPTS)


@pytest.mark.parametrize(("cloud", "edge"), [("distilled", "wider"), ("plain", "distilled")])
def test_the_hook_equals_our_own_pipeline(kind: str, folder: Path, cloud: str, edge: str) -> None:
    own = own_pipeline(kind, folder / cloud)
    apply_ecdiff(own, config_of(folder, cloud, edge), edge=own_pipeline(kind, folder / edge))
    try:
        assert_close(run(own), ours(folder, cloud, edge))
        assert own.ecdiff.calls == {"cloud": 3, "edge": 2}
    finally:
        remove_ecdiff(own)


def test_the_hook_refuses_an_edge_that_its_pipeline_cannot_guide(kind: str, folder: Path) -> None:
    own, edge = own_pipeline(kind, folder / "distilled"), own_pipeline(kind, folder / "plain")
    with refused(PairError, key="edge", got=7.5, expected="time_cond_proj_dim"):
        apply_ecdiff(own, config_of(folder, "distilled", "plain"), edge=edge)
    apply_ecdiff(own, config_of(folder, "distilled", "plain", scale=1.0), edge=edge)
    try:
        assert_close(run(own, 1.0), ours(folder, "distilled", "plain", scale=1.0))
        with (
            pytest.warns(UserWarning, match="guidance_scale=3, the config was tuned with 1"),
            refused(PairError, key="edge", got=3.0, expected="time_cond_proj_dim"),
        ):
            run(own, 3.0)
        assert own.ecdiff.calls == {"cloud": 0, "edge": 0}  # before any call is paid
    finally:
        remove_ecdiff(own)


def test_the_preflight_says_that_guidance_differs(kind: str, folder: Path) -> None:
    family = FAMILIES[CLASSES[kind].__name__]
    rows = {row.name: row for row in compare(folder / "distilled", folder / "plain", family)}
    row = rows["guidance as an embedding"]
    assert (row.cloud, row.edge, row.verdict) == ("16", "None", Verdict.OK)
    assert "each model gets the scale in its own way" in row.why
