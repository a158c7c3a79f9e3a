"""CogVideoX: equal to diffusers where it must be, sizes, the pair's differences, files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor, nn

from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.__main__ import main
from ecdiff_core.errors import ParamsError
from ecdiff_core.io import video
from ecdiff_core.models.compatibility import Row, Verdict, compare, refusals
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.families.cogvideox import CogVideoX
from ecdiff_core.models.families.family import Size
from ecdiff_core.models.families.guidance import Guidance
from ecdiff_core.models.find import ModelFiles
from ecdiff_core.sampling.schedulers import build_scheduler
from ecdiff_core.sampling.timesteps import set_steps
from full_size.models import read_config

from ... import small_videos
from ...refusals import refused
from ...small_videos import TEXT_TOKENS

PROMPT = "a red circle moves left"
Capture = pytest.CaptureFixture[str]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_sampling(config: TunedConfig, **changes: Any) -> TunedConfig:
    return replace(config, sampling=replace(config.sampling, **changes))


def load(config: TunedConfig) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(config, device="cpu")


@pytest.fixture(scope="module")
def pipe(video_config: TunedConfig) -> ECDiffPipeline:
    """Shared: a pipeline keeps nothing from call to call."""
    return load(video_config)


@pytest.fixture
def family(tiny_videos: Path) -> CogVideoX:
    """The cloud's alone, for a test to change."""
    loaded = CogVideoX.load(ModelFiles(tiny_videos / "cloud"), torch.float32)
    assert isinstance(loaded, CogVideoX)
    return loaded


def from_diffusers(own: CogVideoXPipeline, config: TunedConfig, prompt: Any, **changes: Any) -> Any:
    """What diffusers' own pipeline gives with the settings of a config."""
    sampling = config.sampling
    own.set_progress_bar_config(disable=True)
    settings = {
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.num_frames,
        "max_sequence_length": TEXT_TOKENS,
        "generator": seeded(),
        "output_type": "latent",
    }
    return own(prompt, **{**settings, **changes}).frames


# Equal to diffusers.


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_cloud_only_equals_diffusers(
    tiny_videos: Path, video_config: TunedConfig, guidance_scale: float
) -> None:
    config = with_sampling(video_config, guidance_scale=guidance_scale)
    output = load(config)(PROMPT, generator=seeded(), mode="cloud")
    expected = from_diffusers(CogVideoXPipeline.from_pretrained(tiny_videos / "cloud"), config, PROMPT)
    assert output.latents.shape == (1, 3, 4, 4, 4)
    assert output.latents.std() > 0.1
    assert (output.latents - expected).abs().max() <= 1e-5


def test_a_guidance_scale_that_varies_with_the_timestep(
    tiny_videos: Path, video_config: TunedConfig, pipe: ECDiffPipeline
) -> None:
    output = load(with_sampling(video_config, use_dynamic_cfg=True))(PROMPT, generator=seeded(), mode="cloud")
    own = CogVideoXPipeline.from_pretrained(tiny_videos / "cloud")
    expected = from_diffusers(own, video_config, PROMPT, use_dynamic_cfg=True)
    assert (output.latents - expected).abs().max() <= 1e-5
    fixed = pipe(PROMPT, generator=seeded(), mode="cloud").latents
    assert (output.latents - fixed).abs().max() > 1e-2


def test_edge_only_equals_diffusers_with_the_edge_model(
    tiny_videos: Path, video_config: TunedConfig, pipe: ECDiffPipeline
) -> None:
    own = CogVideoXPipeline.from_pretrained(
        tiny_videos / "cloud",
        transformer=CogVideoXTransformer3DModel.from_pretrained(tiny_videos / "edge/transformer"),
    )
    output = pipe(PROMPT, generator=seeded(), mode="edge")
    assert (output.latents - from_diffusers(own, video_config, PROMPT)).abs().max() <= 1e-5


def test_equals_diffusers_with_negative_prompts_a_batch_and_another_size(
    tiny_videos: Path, video_config: TunedConfig
) -> None:
    config = with_sampling(video_config, height=32, width=48, num_frames=17)
    prompts, negatives = [PROMPT, "a blue star"], ["dark", ""]
    output = load(config)(prompts, negative_prompt=negatives, generator=seeded(), mode="cloud")
    own = CogVideoXPipeline.from_pretrained(tiny_videos / "cloud")
    expected = from_diffusers(own, config, prompts, negative_prompt=negatives)
    assert output.latents.shape == (2, 5, 4, 4, 6)
    assert (output.latents - expected).abs().max() <= 1e-5
    assert [len(frames) for frames in output.images] == [17, 17]
    assert output.images[1][16].size == (48, 32)


def test_frames_are_the_pipelines(tiny_videos: Path, video_config: TunedConfig, pipe: ECDiffPipeline) -> None:
    own = CogVideoXPipeline.from_pretrained(tiny_videos / "cloud")
    output = pipe(PROMPT, generator=seeded(), mode="cloud")
    expected = from_diffusers(own, video_config, PROMPT, output_type="pt")
    videos = pipe.pair.family.decode(output.latents)
    assert videos.shape == (1, 9, 3, 32, 32)
    assert videos.dtype == torch.float32
    assert videos.min() >= 0
    assert videos.max() <= 1
    torch.testing.assert_close(videos, expected, atol=1e-5, rtol=0)
    assert len(output.images) == 1
    for frame, image in zip(output.images[0], expected[0], strict=True):
        rounded = (255 * image).round().permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(frame).astype(int) - rounded).max() <= 1


def test_a_rotary_edge_gets_its_own_positions(family: CogVideoX, video_config: TunedConfig) -> None:
    edge = small_videos.five_b_like(attention_head_dim=32, sample_width=8, sample_height=8)
    parts = {**family.pipeline.components, "transformer": edge}
    own = CogVideoXPipeline(**parts)
    seen: list[Tensor] = []
    hook = edge.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    config = with_sampling(video_config, num_inference_steps=1, height=32, width=32, num_frames=9)
    from_diffusers(own, config, PROMPT)
    hook.remove()
    size = Size(32, 32, 9)
    conditioning = family.encode([PROMPT], 3.0, size)
    latents = family.initial_latents(1, size, family.scheduler, seeded())
    with torch.no_grad():
        found = family.bind(edge, conditioning, Guidance(3.0))(latents, torch.tensor(999))
    without, text = seen[0].chunk(2)
    torch.testing.assert_close(found, without + 3.0 * (text - without), atol=1e-5, rtol=1e-5)


def test_frames_joined_two_by_two_as_cogvideox_1_5_does(family: CogVideoX, video_config: TunedConfig) -> None:
    own = family.pipeline
    own.register_modules(transformer=small_videos.five_b_like(patch_size_t=2))
    size = family.default_size
    family.check_size(size)
    config = with_sampling(video_config, num_inference_steps=3)
    expected = from_diffusers(own, config, PROMPT)
    videos = from_diffusers(own, config, PROMPT, output_type="pt")
    latents = family.initial_latents(1, size, family.scheduler, seeded())
    assert latents.shape == expected.shape == (1, 4, 4, 4, 4)
    torch.testing.assert_close(family.decode(expected), videos)
    denoise = family.bind(family.denoiser, family.encode([PROMPT], 3.0, size), Guidance(3.0))
    set_steps(family.scheduler, 3)
    with torch.no_grad():
        for timestep in family.scheduler.timesteps:
            step = family.scheduler.step(denoise(latents, timestep), timestep, latents)
            latents = step.prev_sample
    assert (latents - expected).abs().max() <= 1e-5


# EC-Diff on the pair.


def test_modes(pipe: ECDiffPipeline) -> None:
    schedules = {"ecdiff": "3C2A1C3E", "hybrid": "6C3E", "cloud": "9C", "edge": "9E"}
    outputs = {mode: pipe(PROMPT, generator=seeded(), mode=mode) for mode in schedules}
    assert {mode: output.plan.schedule for mode, output in outputs.items()} == schedules
    latents = [output.latents for output in outputs.values()]
    assert all(torch.isfinite(one).all() for one in latents)
    for i, one in enumerate(latents):
        assert all((one - other).abs().max() > 1e-3 for other in latents[:i])


def test_half_precision(video_config: TunedConfig) -> None:
    config = with_sampling(video_config, dtype="bfloat16", num_inference_steps=9)
    output = load(config)(PROMPT, generator=seeded())
    assert output.latents.dtype == torch.bfloat16
    assert len(output.images[0]) == 9


def edge_calls(pipe: ECDiffPipeline) -> list[tuple[Tensor, Tensor]]:
    """Latents of the first and timesteps of all prompts in every edge call of a generation."""
    seen: list[tuple[Tensor, Tensor]] = []

    def record(_module: nn.Module, _inputs: object, named: dict[str, Tensor]) -> None:
        seen.append((named["hidden_states"][:1], named["timestep"]))

    hook = pipe.pair.edge.register_forward_pre_hook(record, with_kwargs=True)
    pipe(PROMPT, generator=seeded())
    hook.remove()
    return seen


def test_a_matched_handoff_tells_the_edge_its_own_timesteps(
    video_config: TunedConfig, pipe: ECDiffPipeline
) -> None:
    matched = load(with_sampling(video_config, handoff_adapter="matched"))
    (plain, cloud_timestep), (scaled, edge_timestep) = edge_calls(pipe)[0], edge_calls(matched)[0]
    cloud, edge = matched.pair.cloud_schedule, matched.pair.edge_schedule
    assert cloud is not None
    assert edge is not None
    assert (cloud.scaling_factor, edge.scaling_factor) == (0.7, 1.15258)
    there = float(cloud_timestep[0])
    here = edge.timestep_like(cloud, there)
    assert edge_timestep.dtype == torch.float32
    assert edge_timestep.tolist() == pytest.approx([here, here])
    assert not here.is_integer()
    factor = edge.abar(here) ** 0.5 * 1.15258 / (cloud.abar(there) ** 0.5 * 0.7)
    torch.testing.assert_close(scaled, factor * plain, atol=1e-5, rtol=1e-5)
    one, other = (p(PROMPT, generator=seeded()).latents for p in (pipe, matched))
    assert torch.isfinite(other).all()
    assert (one - other).abs().max() > 1e-2


# Sizes.


def test_default_size_and_thirteen_latent_frames_for_forty_nine(family: CogVideoX) -> None:
    assert family.default_size == Size(32, 32, 9)
    latents = family.initial_latents(2, Size(32, 48, 49), family.scheduler, seeded())
    assert latents.shape == (2, 13, 4, 4, 6)
    conditioning = family.encode(["one", "two"], 3.0, Size(32, 48, 49))
    assert conditioning.tensors["encoder_hidden_states"].shape == (4, TEXT_TOKENS, 16)
    assert family.payload_values(conditioning, latents) == 13 * 4 * 4 * 6 + 2 * TEXT_TOKENS * 16


@pytest.mark.parametrize("size", [Size(32, 32, 1), Size(16, 48, 9), Size(480, 720, 49)])
def test_sizes_that_can_be_made(family: CogVideoX, size: Size) -> None:
    family.check_size(size)


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_as_many_frames_as_asked_for(family: CogVideoX, frames: int) -> None:
    size = Size(16, 16, frames)
    family.check_size(size)
    latents = family.initial_latents(1, size, family.scheduler, seeded())
    assert family.decode(latents).shape == (1, frames, 3, 16, 16)


@pytest.mark.parametrize(
    ("size", "refusal"),
    [
        (Size(40, 32, 9), {"got": {"height": 40, "width": 32}, "expected": "to be multiples of 16 pixels"}),
        (Size(0, 32, 9), {"got": {"height": 0, "width": 32}, "advice": "The model was trained for 32x32."}),
        (Size(32, 32, 8), {"key": "num_frames", "got": 8, "expected": "= 8 n + 1"}),
        (Size(32, 32, 5), {"key": "num_frames", "got": 5, "advice": "The model was trained for 9."}),
        (Size(32, 32, 0), {"key": "num_frames", "got": 0}),
    ],
)
def test_sizes_that_cannot(family: CogVideoX, size: Size, refusal: dict[str, Any]) -> None:
    with refused(ParamsError, **refusal):
        family.check_size(size)


def test_other_temporal_patches_are_refused(family: CogVideoX) -> None:
    family.pipeline.transformer.register_to_config(patch_size_t=4)
    with refused(ParamsError, key="patch_size_t", got=4, expected="to be null or 2"):
        family.check_size(family.default_size)


# Schedulers.


def test_the_stochastic_scheduler_is_refused(video_config: TunedConfig) -> None:
    with refused(ParamsError, key="scheduler", got="CogVideoXDPMScheduler", line="timestep_back"):
        load(with_sampling(video_config, scheduler="CogVideoXDPMScheduler"))


def test_a_model_that_came_with_it_runs_on_its_deterministic_kin() -> None:
    like = CogVideoXDPMScheduler.from_config(small_videos.scheduler(3.0).config)
    found = build_scheduler("CogVideoXDDIMScheduler", like)
    set_steps(found, 50)
    assert found.timesteps[[0, 38]].tolist() == [999, 239]
    torch.testing.assert_close(found.alphas_cumprod, like.alphas_cumprod)


def test_schedulers_that_do_not_know_the_snr_shift_are_refused() -> None:
    advice = re.compile("CogVideoXDDIMScheduler")
    with refused(ParamsError, key="scheduler", got="DDIMScheduler", advice=advice):
        build_scheduler("DDIMScheduler", small_videos.scheduler(3.0))
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        assert build_scheduler(name, small_videos.scheduler(1.0)).config.prediction_type == "v_prediction"


# Preflight.


def rows_of(pair: Path) -> dict[str, Row]:
    rows = compare(pair / "cloud", pair / "edge", FAMILIES["CogVideoXPipeline"])
    return {row.name: row for row in rows}


def test_the_pair_works_together(tiny_videos: Path) -> None:
    rows = rows_of(tiny_videos)
    assert refusals(list(rows.values())) == []
    for name in ("latent scaling", "noise schedule"):
        assert (rows[name].verdict, rows[name].why) == (
            Verdict.CONVERTIBLE,
            "with sampling.handoff_adapter=matched",
        )
    rotary = rows["rotary positions"]
    assert (rotary.cloud, rotary.edge, rotary.verdict) == ("True", "False", Verdict.OK)
    assert rotary.why == "each model gets its own"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("in_channels", "latent channels"),
        ("out_channels", "latent channels"),
        ("text_embed_dim", "embedding width"),
        ("max_text_seq_length", "text tokens"),
        ("patch_size", "patch"),
        ("patch_size_t", "patch"),
    ],
)
def test_what_must_agree(tiny_videos: Path, tmp_path: Path, key: str, name: str) -> None:
    pair = Path(shutil.copytree(tiny_videos, tmp_path / "pair"))
    path = pair / "edge/transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 7}))
    assert [
        phrase.partition(" (")[0].startswith(name) for phrase in refusals(list(rows_of(pair).values()))
    ] == [True]


@pytest.mark.parametrize(("name", "parameters"), [("5b", 5_570_283_072), ("2b", 1_693_783_872)])
def test_full_size_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel.from_config(read_config(f"cogvideox_{name}"))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# Files.

needs_ffmpeg = pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="needs the extra video")


@pytest.fixture
def generate(video_config: TunedConfig, tmp_path: Path) -> Callable[..., int]:
    """``ecdiff generate`` of the tiny video pair into ``tmp_path / out``."""
    path = tmp_path / "ecdiff.yaml"
    video_config.save(path)
    settings = ("--config", str(path), "--out", str(tmp_path / "out"), "--device", "cpu")
    return lambda *arguments: main(["generate", *settings, *arguments])


@needs_ffmpeg
def test_generate_writes_videos_with_their_story(
    generate: Callable[..., int], pipe: ECDiffPipeline, tmp_path: Path, capsys: Capture
) -> None:
    import imageio

    assert generate("--prompt", PROMPT, "--seed", "7", "--fps", "4") == 0
    path = tmp_path / "out/00007.mp4"
    assert sorted(file.name for file in path.parent.iterdir()) == ["00007.json", "00007.mp4"]
    first, closing = capsys.readouterr().out.splitlines()
    assert first == f"{path}  {PROMPT}"
    assert closing.startswith("9 steps = 4 cloud + 2 approximated + 3 edge")

    with imageio.get_reader(path) as reader:
        assert reader.get_meta_data()["fps"] == 4
        frames = [np.asarray(frame).astype(float) for frame in reader]
    expected = pipe(PROMPT, generator=seeded(7)).images[0]
    assert len(frames) == len(expected) == 9
    for frame, image in zip(frames, expected, strict=True):
        assert frame.shape == (32, 32, 3)
        assert abs(frame.mean() - np.asarray(image).mean()) < 8  # compressed

    story = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (story["prompt"], story["seed"], story["plan"]) == (PROMPT, "7", "3C2A1C3E")
    assert TunedConfig.from_yaml(story["config"]) == pipe.config


def test_generate_without_the_extra_stops_before_the_work(
    generate: Callable[..., int], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    assert generate("--prompt", PROMPT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "without imageio and imageio_ffmpeg. Run `pip install 'ecdiff[video]'`" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_fps_is_checked(generate: Callable[..., int], capsys: Capture) -> None:
    assert generate("--prompt", PROMPT, "--fps", "0") == 2
    assert "Expected --fps >= 1, got 0" in capsys.readouterr().err


@needs_ffmpeg
def test_a_video_that_cannot_be_written_leaves_nothing(
    pipe: ECDiffPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ffmpeg(*_: object, **__: object) -> None:
        raise RuntimeError("No ffmpeg exe could be found.\nInstall it.")

    monkeypatch.setattr("diffusers.utils.export_to_video", no_ffmpeg)
    with refused(video.OutputError, key=tmp_path / "a.mp4", line=r"No ffmpeg exe could be found\.$"):
        video.save_mp4(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []
