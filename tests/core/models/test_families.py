"""Every family: equal to diffusers' own pipeline, whole EC-Diff plans, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from ecdiff_core import ECDiffParams, ECDiffPipeline, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.models.compatibility import Row, Verdict, compare
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.pair import load_pair
from ecdiff_core.sampling.schedulers import build_scheduler
from ecdiff_core.sampling.timesteps import set_steps
from full_size.models import read_config

from ...refusals import refused

STEPS = 8
SCHEDULE = "2C1A1C1A1C2E"
PROMPTS = ["a large red circle left of a small blue star", "a small green ring"]
EULER, FLOW = "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class Case:
    """A pair (the fixture that saves it), its pipeline class and a scheduler."""

    fixture: str
    pipeline_class: type[DiffusionPipeline]
    denoiser: str
    scheduler: str


CASES = [
    Case("sdxl_pair", StableDiffusionXLPipeline, "unet", EULER),
    Case("sdxl_pair", StableDiffusionXLPipeline, "unet", "DDIMScheduler"),
    Case("sd3_pair", StableDiffusion3Pipeline, "transformer", FLOW),
    Case("sd3_pair_without_t5", StableDiffusion3Pipeline, "transformer", FLOW),
]
IDS = [f"{case.fixture}-{case.scheduler}" for case in CASES]
SDXL, SD3 = CASES[0], CASES[2]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def config_of(folder: Path, scheduler: str, **sampling: Any) -> TunedConfig:
    """A config whose plan is ``SCHEDULE``."""
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **sampling}
    return TunedConfig(
        pair=PairSpec("small", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge"))),
        params=ECDiffParams(p=2, k=1, alpha=0.3, s=6),
        sampling=Sampling(scheduler=scheduler, **settings),
    )


@cache  # calls change nothing of a pipeline
def load(folder: Path, scheduler: str, **sampling: Any) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(config_of(folder, scheduler, **sampling), device="cpu")


@cache
def own_pipeline(case: Case, folder: Path, denoiser: Path | None = None) -> Any:
    """diffusers' own pipeline in a folder, with another folder's denoiser if one is given."""
    parts = {}
    if case.fixture == "sd3_pair_without_t5":
        parts = {"text_encoder_3": None, "tokenizer_3": None}
    own = case.pipeline_class.from_pretrained(folder, **parts)
    own.scheduler = build_scheduler(case.scheduler, own.scheduler)
    own.set_progress_bar_config(disable=True)
    if denoiser is not None:
        model_class = type(getattr(own, case.denoiser))
        setattr(own, case.denoiser, model_class.from_pretrained(denoiser, subfolder=case.denoiser))
    return own


def run_own(own: Any, prompts: list[str], guidance: float, output_type: str = "latent", **call: Any) -> Any:
    seeds = seeded(*range(len(prompts)))
    settings = {"num_inference_steps": STEPS, "guidance_scale": guidance, "generator": seeds, **call}
    return own(prompts, output_type=output_type, **settings).images


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def assert_same_latents(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 of the greatest: noise that was scaled for another scheduler, and a batch, round otherwise."""
    assert difference(ours, theirs) <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.fixture(params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def folder(case: Case, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(case.fixture)  # type: ignore[no-any-return]


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_cloud_only_equals_diffusers(case: Case, folder: Path, guidance: float) -> None:
    own = own_pipeline(case, folder / "cloud")
    pipe = load(folder, case.scheduler, guidance_scale=guidance)
    ours = pipe(PROMPTS, generator=seeded(0, 1), mode="cloud")
    assert ours.plan.schedule == f"{STEPS}C"
    assert ours.latents.std() > 0.1
    latents: list[Tensor] = []

    def keep(_: object, step: int, timestep: object, given: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(given["latents"])
        return given

    theirs = run_own(own, PROMPTS, guidance, output_type="np", callback_on_step_end=keep)
    assert_same_latents(ours.latents, latents[-1])
    for image, expected in zip(ours.images, theirs, strict=True):
        assert np.abs(np.asarray(image) / 255 - expected).max() <= 0.5 / 255 + 1e-5


def test_negative_prompts_and_another_size_equal_diffusers(case: Case, folder: Path) -> None:
    negatives, size = ["a blue star", ""], {"height": 48, "width": 64}
    own = own_pipeline(case, folder / "cloud")
    pipe = load(folder, case.scheduler, **size)
    ours = pipe(PROMPTS, negative_prompt=negatives, generator=seeded(0, 1), mode="cloud")
    assert [image.size for image in ours.images] == [(64, 48)] * 2
    theirs = run_own(own, PROMPTS, 3.0, negative_prompt=negatives, **size)
    assert_same_latents(ours.latents, theirs)
    bare = pipe(PROMPTS, generator=seeded(0, 1), mode="cloud")
    assert difference(bare.latents[:1], ours.latents[:1]) > 1e-3


def test_edge_only_equals_diffusers_with_the_edge_denoiser(case: Case, folder: Path) -> None:
    own = own_pipeline(case, folder / "cloud", denoiser=folder / "edge")
    ours = load(folder, case.scheduler)(PROMPTS, generator=seeded(0, 1), mode="edge")
    assert_same_latents(ours.latents, run_own(own, PROMPTS, 3.0))


def test_a_whole_plan(case: Case, folder: Path) -> None:
    pipe = load(folder, case.scheduler)
    outputs = {mode: pipe(PROMPTS, generator=seeded(0, 1), mode=mode) for mode in ("ecdiff", "cloud", "edge")}
    assert outputs["ecdiff"].plan.schedule == SCHEDULE
    latents = [output.latents for output in outputs.values()]
    assert all(torch.isfinite(found).all() for found in latents)
    assert min(difference(a, b) for i, a in enumerate(latents) for b in latents[:i]) > 1e-3
    first, second = outputs["ecdiff"].images
    assert np.asarray(first).std() > 1
    assert not np.array_equal(np.asarray(first), np.asarray(second))


def test_a_batch_equals_one_by_one(case: Case, folder: Path) -> None:
    pipe = load(folder, case.scheduler)
    together = pipe(PROMPTS, generator=seeded(0, 1)).latents
    for i, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, generator=seeded(i)).latents[0]
        # Kernels round by the batch, and a trajectory amplifies it: up to 1.2e-5 of the greatest was seen.
        assert difference(alone, together[i]) <= 1e-4 * float(together[i].abs().max())


def test_prompt_and_seed_matter(case: Case, folder: Path) -> None:
    pipe = load(folder, case.scheduler)
    first = pipe(PROMPTS[0], generator=seeded(0)).latents
    assert difference(pipe(PROMPTS[1], generator=seeded(0)).latents, first) > 1e-3
    assert difference(pipe(PROMPTS[0], generator=seeded(1)).latents, first) > 1e-1
    assert torch.equal(pipe(PROMPTS[0], generator=seeded(0)).latents, first)


@pytest.mark.parametrize(
    ("fixture", "numbers"),
    [
        # latents, two halves of: tokens x width, pooled, time ids
        ("sdxl_pair", 4 * 8 * 8 + 2 * (32 * 48 + 32 + 6)),
        # the CLIP encoders' 32 tokens are followed by 256 of T5, zeros where it is absent
        ("sd3_pair", 16 * 8 * 8 + 2 * ((32 + 256) * 64 + 48)),
        ("sd3_pair_without_t5", 16 * 8 * 8 + 2 * ((32 + 256) * 64 + 48)),
    ],
)
def test_payload_values(fixture: str, numbers: int, request: pytest.FixtureRequest) -> None:
    scheduler = EULER if fixture == "sdxl_pair" else FLOW
    pipe = load(request.getfixturevalue(fixture), scheduler)
    family = pipe.pair.family
    conditioning = family.encode(PROMPTS, 3.0, pipe.size)
    latents = family.initial_latents(2, pipe.size, pipe.scheduler, seeded(0, 1))
    assert family.payload_values(conditioning, latents) == numbers


@pytest.mark.parametrize(
    ("case", "size", "expected"),
    [
        (SDXL, {"height": 34}, "to be multiples of 4 pixels"),
        (SD3, {"width": 36}, "to be multiples of 8 pixels"),
        (SD3, {"height": 136}, "of at most 128 pixels, for which the cloud model has position embeddings"),
        (SDXL, {"num_frames": 9}, "to be null"),
    ],
)
def test_sizes_that_the_model_cannot_make(
    case: Case, size: dict[str, int], expected: str, request: pytest.FixtureRequest
) -> None:
    got = size.get("num_frames", {"height": 32, "width": 32} | size)
    with refused(ParamsError, got=got, expected=expected):
        load(request.getfixturevalue(case.fixture), case.scheduler, **size)


# Stable Diffusion XL


@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_negative_prompt_is_zeros_where_the_model_says_so(
    sdxl_pair: Path, tmp_path: Path, force_zeros: bool
) -> None:
    pair = Path(shutil.copytree(sdxl_pair, tmp_path / "pair"))
    set_keys(pair / "cloud" / "model_index.json", force_zeros_for_empty_prompt=force_zeros)
    pipe = load(pair, EULER)
    tensors = pipe.pair.family.encode(PROMPTS, 3.0, pipe.size).tensors
    for name in ("encoder_hidden_states", "text_embeds"):
        assert (tensors[name][:2].abs().max() == 0) == force_zeros
        assert tensors[name][2:].abs().max() > 0
    own = own_pipeline(SDXL, pair / "cloud")
    ours = pipe(PROMPTS, generator=seeded(0, 1), mode="cloud")
    assert_same_latents(ours.latents, run_own(own, PROMPTS, 3.0))


def test_the_size_is_a_condition(sdxl_pair: Path) -> None:
    pipe = load(sdxl_pair, EULER, height=48, width=64)
    time_ids = pipe.pair.family.encode(PROMPTS, 3.0, pipe.size).tensors["time_ids"]
    assert time_ids.tolist() == [[48, 64, 0, 0, 48, 64]] * 4


def test_the_autoencoders_own_mean_and_deviation(sdxl_pair: Path, tmp_path: Path) -> None:
    pair = Path(shutil.copytree(sdxl_pair, tmp_path / "pair"))
    statistics = {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [1.5, 2.0, 0.5, 1.0]}
    for name in ("cloud", "edge"):
        set_keys(pair / name / "vae" / "config.json", **statistics)
    ours = load(pair, EULER)(PROMPTS[:1], generator=seeded(0), mode="cloud").images[0]
    [expected] = run_own(own_pipeline(SDXL, pair / "cloud"), PROMPTS[:1], 3.0, output_type="np")
    assert np.abs(np.asarray(ours) / 255 - expected).max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize("force_upcast", [True, False])
def test_the_autoencoder_decodes_half_precision_in_float32(sdxl_pair: Path, force_upcast: bool) -> None:
    family = load.__wrapped__(sdxl_pair, EULER).pair.family
    vae = family.pipeline.vae
    vae.register_to_config(force_upcast=force_upcast)
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0)[0])
    exact = family.decode(latents)
    vae.half()
    seen: list[torch.dtype] = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    images = family.decode(latents.half())
    hook.remove()
    assert seen == [torch.float32 if force_upcast else torch.float16]
    assert vae.dtype is torch.float16
    assert images.dtype is torch.float32
    assert difference(images, exact) < 0.02


# Stable Diffusion 3


def test_t5_matters(sd3_pair: Path) -> None:
    pipe = load(sd3_pair, FLOW)
    embeds = pipe.pair.family.encode(PROMPTS[:1], 1.0, pipe.size).tensors["encoder_hidden_states"]
    assert embeds[:, 32:].abs().max() > 0


@pytest.mark.parametrize("time_shift_type", ["exponential", "linear"])
def test_dynamic_shifting_equals_diffusers(sd3_pair: Path, tmp_path: Path, time_shift_type: str) -> None:
    pair = Path(shutil.copytree(sd3_pair, tmp_path / "pair"))
    set_keys(
        pair / "cloud" / "scheduler" / "scheduler_config.json",
        use_dynamic_shifting=True,
        base_image_seq_len=16,
        max_image_seq_len=64,
        time_shift_type=time_shift_type,
    )
    size = {"height": 48, "width": 40}
    pipe, own = load(pair, FLOW, **size), own_pipeline(SD3, pair / "cloud")
    ours = pipe(PROMPTS, generator=seeded(0, 1), mode="cloud")
    assert_same_latents(ours.latents, run_own(own, PROMPTS, 3.0, **size))
    assert torch.allclose(pipe.scheduler.timesteps, own.scheduler.timesteps, atol=1e-3)
    assert difference(load(sd3_pair, FLOW, **size).scheduler.timesteps, own.scheduler.timesteps) > 1


def test_flow_matching_that_cannot_be_tuned() -> None:
    with refused(ParamsError, key="scheduler", got=FLOW, expected="deterministic"):
        build_scheduler(FLOW, FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", expected=[FLOW]):
        build_scheduler("DDIMScheduler", FlowMatchEulerDiscreteScheduler())
    with refused(ParamsError, key="use_dynamic_shifting", got=True, expected="false"):
        set_steps(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), STEPS)


def test_a_matched_handoff_is_refused(sd3_pair: Path) -> None:
    with refused(ParamsError, key="handoff_adapter", got="matched", expected="identity"):
        load(sd3_pair, FLOW, handoff_adapter="matched")


# Two models that fit together


def set_keys(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def rows_of(folder: Path, name: str) -> dict[str, Row]:
    return {row.name: row for row in compare(folder / "cloud", folder / "edge", FAMILIES[name])}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_preflight_of_pairs_made_for_each_other(case: Case, folder: Path) -> None:
    rows = rows_of(folder, case.pipeline_class.__name__)
    assert {row.verdict for row in rows.values()} == {Verdict.OK}
    if case.fixture == "sd3_pair_without_t5":
        third = rows["text_encoder_3"]
        assert (third.cloud, third.edge, third.why) == ("none", "none", "the cloud does without it")


def test_a_shift_is_no_difference(sd3_pair: Path, tmp_path: Path) -> None:
    pair = Path(shutil.copytree(sd3_pair, tmp_path / "pair"))
    set_keys(pair / "edge" / "scheduler" / "scheduler_config.json", shift=1.0)
    row = rows_of(pair, "StableDiffusion3Pipeline")["noise schedule"]
    assert (row.cloud, row.verdict) == ("rectified flow", Verdict.OK)


OTHER, POOLED = "other conditions", "pooled embeddings"


@pytest.mark.parametrize(
    ("fixture", "denoiser", "values", "got"),
    [
        ("sdxl_pair", "unet", {"in_channels": 8}, {"latent channels": "4, 4 | 8, 4"}),
        ("sdxl_pair", "unet", {"cross_attention_dim": 32}, {"embedding width": "48 | 32"}),
        (
            "sdxl_pair",
            "unet",
            {"class_embed_type": "timestep"},
            {OTHER: "None, None, None | timestep, None, None"},
        ),
        (
            "tiny_pair",
            "unet",
            {"addition_embed_type": "text_time"},
            {POOLED: "None | text_time"},
        ),
        (
            "tiny_pair",
            "unet",
            {"num_class_embeds": 5},
            {OTHER: "None, None, None | None, 5, None"},
        ),
        (
            "sdxl_pair",
            "unet",
            {"projection_class_embeddings_input_dim": 96},
            {"pooled embeddings and time ids": "text_time, 8, 80 | text_time, 8, 96"},
        ),
        ("sd3_pair", "transformer", {"in_channels": 4}, {"latent channels": "16, 16 | 4, 16"}),
        ("sd3_pair", "transformer", {"joint_attention_dim": 32}, {"embedding width": "64 | 32"}),
        ("sd3_pair", "transformer", {"pooled_projection_dim": 64}, {"pooled width": "48 | 64"}),
        ("sd3_pair", "transformer", {"patch_size": 4}, {"patch size": "2 | 4"}),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    fixture: str,
    denoiser: str,
    values: dict[str, int | str],
    got: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    pair = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "pair"))
    set_keys(pair / "edge" / denoiser / "config.json", **values)
    spec = config_of(pair, EULER).pair
    with refused(PairError, key="pair", got=got):
        load_pair(spec, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("part", ["text_encoder_3", "tokenizer_3"])
def test_an_optional_part_that_is_named_must_be_there(sd3_pair: Path, tmp_path: Path, part: str) -> None:
    pair = Path(shutil.copytree(sd3_pair, tmp_path / "pair"))
    shutil.rmtree(pair / "cloud" / part)
    with refused(PairError, key=pair / "cloud" / part):
        load(pair, FLOW)


def test_the_third_text_encoder_is_part_of_the_fingerprint(sd3_pair: Path, tmp_path: Path) -> None:
    pair = Path(shutil.copytree(sd3_pair, tmp_path / "pair"))
    spec = load(pair, FLOW).pair.spec
    shutil.rmtree(pair / "cloud" / "text_encoder_3")
    shutil.rmtree(pair / "cloud" / "tokenizer_3")
    nothing = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    set_keys(pair / "cloud" / "model_index.json", **nothing)
    config = replace(config_of(pair, FLOW), pair=spec)
    with refused(PairError, key="cloud.fingerprint", expected=spec.cloud.fingerprint):
        ECDiffPipeline.from_config(config, device="cpu")


# Full-size models


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sd14", 859_520_964),
        ("bk_sdm_small", 482_346_884),
        ("bk_sdm_tiny", 323_384_964),
        ("sdxl_base", 2_567_463_684),
        ("ssd_1b", 1_331_334_404),
        ("segmind_vega", 745_225_604),
    ],
)
def test_parameters_of_the_full_size_models(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert UNet2DConditionModel.from_config(read_config(name)).num_parameters() == parameters
