"""What is handed on, loaded by the real packages."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline

from ecdiff_core import ECDiffParams, MethodChoice, ModelRef, TunedConfig
from ecdiff_core.errors import ConfigError
from ecdiff_core.methods.enable import enable
from ecdiff_tune.methods.diffusers_lines import to_diffusers
from ecdiff_tune.methods.export import mask_in, to_cache_dit, to_measure, to_sglang, to_vllm_omni

from ...hooking import run
from ...refusals import refused
from ..studies import Command, refuses

STEPS = 9
CHOICES = [
    MethodChoice("first_block_cache", {"threshold": 3.0}),
    MethodChoice("taylorseer", {"cache_interval": 3}),
    MethodChoice("mag_cache", {"threshold": 0.3, "mag_ratios": [1.0, *[0.97] * (STEPS - 1)]}),
    MethodChoice("pab", {"spatial_attention_block_skip_range": 3}),
    # as many ratios as are given for fewer steps
    MethodChoice("mag_cache", {"threshold": 0.3, "mag_ratios": [1.0, 0.97, 0.95]}),
]


@pytest.fixture
def cloud(video_config: TunedConfig) -> TunedConfig:
    return replace(video_config, params=ECDiffParams.cloud_only(STEPS))


@pytest.fixture
def video(tiny_videos: Path) -> Any:
    pipe = CogVideoXPipeline.from_pretrained(tiny_videos / "cloud")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("choice", CHOICES)
def test_lines_for_diffusers_do_what_the_config_does(
    video: Any, cloud: TunedConfig, choice: MethodChoice
) -> None:
    text = to_diffusers(replace(cloud, method=choice, score={"quality": 0.9137}))
    assert f"# videos, {choice.text}: mean SSIM 0.9137 to the images without it\n" in text
    on = enable(
        choice.method,
        video.transformer,
        choice.values,
        num_steps=STEPS,
        guided=True,
        video=True,
        scheduler=lambda: video.scheduler,
        counts=True,
    )
    with on:
        ours = run(video, num_inference_steps=STEPS)
        assert on.hits.reused > 0
    exec(text, {"pipe": video})
    assert torch.equal(run(video, num_inference_steps=STEPS), ours)


def test_what_diffusers_cannot_be_told(cloud: TunedConfig) -> None:
    for method, got in ((None, "EC-Diff"), (MethodChoice("tome"), "tome")):
        with refused(ConfigError, key="method", got=got):
            to_diffusers(replace(cloud, method=method))


def test_lines_that_the_model_has_no_switch_for_are_not_written(
    cloud: TunedConfig, tiny_pair: Path, sd3_pair_without_t5: Path
) -> None:
    for pair, kind in ((tiny_pair, "UNet2DConditionModel"), (sd3_pair_without_t5, "SD3Transformer2DModel")):
        spec = replace(cloud.pair, cloud=ModelRef(str(pair / "cloud")))
        with refused(ConfigError, key="pair.cloud", got=kind, line="apply_tuned"):
            to_diffusers(replace(cloud, pair=spec, method=CHOICES[1]))
    unknown = replace(cloud.pair, cloud=ModelRef("/no/such/model"))
    assert "enable_cache" in to_diffusers(replace(cloud, pair=unknown, method=CHOICES[1]))


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
@pytest.mark.filterwarnings("ignore")
def test_a_mask_is_obeyed_by_cache_dit(video: Any, cloud: TunedConfig, tmp_path: Path) -> None:
    import cache_dit

    masked = replace(cloud, params=ECDiffParams(p=3, k=2, alpha=0.3, s=STEPS))
    path = tmp_path / "cache_dit.yaml"
    path.write_text(to_cache_dit(masked))
    loaded = cache_dit.load_configs(str(path))
    mask = [1, 1, 1, 0, 0, 1, 0, 0, 1]
    assert loaded["cache_config"].steps_computation_mask == mask
    ran: list[int] = []
    last = video.transformer.transformer_blocks[-1].attn1.to_q
    handle = last.register_forward_hook(lambda *_: ran.append(1))
    try:
        plain = run(video, num_inference_steps=STEPS)
        ran.clear()
        cache_dit.enable_cache(video, **loaded)
        cached = run(video, num_inference_steps=STEPS)
    finally:
        handle.remove()
        cache_dit.disable_cache(video)
    assert len(ran) == sum(mask)
    assert torch.isfinite(cached).all()
    assert (cached - plain).abs().max() > 1e-4


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
@pytest.mark.filterwarnings("ignore")
def test_a_threshold_reaches_cache_dit(cloud: TunedConfig, tmp_path: Path) -> None:
    import cache_dit

    path = tmp_path / "cache_dit.yaml"
    path.write_text(to_cache_dit(replace(cloud, method=CHOICES[0])))
    config = cache_dit.load_configs(str(path))["cache_config"]
    assert (config.residual_diff_threshold, config.Fn_compute_blocks, config.max_warmup_steps) == (3.0, 1, 0)


CACHE_DIT = [
    MethodChoice(
        "dbcache",
        {
            "residual_diff_threshold": 2.0,
            "max_warmup_steps": 2,
            "max_continuous_cached_steps": 2,
            "calibrator": "taylorseer",
        },
    ),
    MethodChoice("step_mask", {"warmup": 3, "skipped": 2}),
]


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
@pytest.mark.parametrize("choice", CACHE_DIT, ids=lambda choice: choice.name)
def test_cache_dit_makes_the_images_that_were_tuned(
    video: Any, cloud: TunedConfig, choice: MethodChoice, tmp_path: Path
) -> None:
    import cache_dit

    on = enable(
        choice.method, video.transformer, choice.values, num_steps=STEPS, guided=True, video=True, counts=True
    )
    with on:
        ours = run(video, num_inference_steps=STEPS)
        assert on.hits.reused > 0
    path = tmp_path / "cache_dit.yaml"
    path.write_text(to_cache_dit(replace(cloud, method=choice)))
    cache_dit.enable_cache(video, **cache_dit.load_configs(str(path)))
    try:
        assert torch.equal(run(video, num_inference_steps=STEPS), ours)
    finally:
        cache_dit.disable_cache(video)


def variables(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        name.removeprefix("SGLANG_CACHE_DIT_"): value for name, value in (one.split("=") for one in lines)
    }


def test_sglang_is_told_by_environment_variables(cloud: TunedConfig) -> None:
    assert variables(to_sglang(replace(cloud, method=CACHE_DIT[0]))) == {
        "ENABLED": "true",
        "FN": "1",
        "BN": "0",
        "WARMUP": "2",
        "RDT": "2.0",
        "MC": "2",
        "TAYLORSEER": "true",
        "TS_ORDER": "1",
    }
    masked = replace(cloud, params=ECDiffParams(p=3, k=2, alpha=0.3, s=STEPS))
    found = variables(to_sglang(masked))
    assert (found["SCM_COMPUTE_BINS"], found["SCM_CACHE_BINS"]) == ("3,1,1", "2,2")
    assert (found["SCM_POLICY"], found["MC"], found["RDT"]) == ("static", "-1", "0.0")
    with refused(ConfigError, key="method.values.calibrator", got="dmd"):
        to_sglang(replace(cloud, method=MethodChoice("dbcache", {"calibrator": "dmd"})))
    with refused(ConfigError, key="method.values"):
        to_sglang(replace(cloud, method=MethodChoice("dbcache", {"max_cached_steps": 3})))


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
def test_bins_are_the_mask_and_presets_have_their_names(cloud: TunedConfig) -> None:
    from cache_dit import steps_mask

    masked = replace(cloud, params=ECDiffParams(p=3, k=2, alpha=0.3, s=STEPS))
    found = variables(to_sglang(masked))
    bins = [list(map(int, found[f"SCM_{name}_BINS"].split(","))) for name in ("COMPUTE", "CACHE")]
    assert tuple(steps_mask(*bins, total_steps=STEPS)) == mask_in(masked) == (1, 1, 1, 0, 0, 1, 0, 0, 1)
    fast = MethodChoice("step_mask", {"mask": steps_mask(total_steps=STEPS, mask_policy="fast")})
    told = json.loads(to_vllm_omni(replace(cloud, method=fast)))
    assert (told["scm_steps_mask_policy"], told["scm_steps_policy"]) == ("fast", "static")


def test_vllm_omni_is_told_by_a_dictionary(cloud: TunedConfig) -> None:
    assert json.loads(to_vllm_omni(replace(cloud, method=CACHE_DIT[0]))) == {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 2,
        "max_cached_steps": -1,
        "max_continuous_cached_steps": 2,
        "residual_diff_threshold": 2.0,
        "enable_taylorseer": True,
        "taylorseer_order": 1,
        "scm_steps_mask_policy": None,
        "scm_steps_policy": "dynamic",
    }
    with refused(ConfigError, key="mask", got="111101010"):
        to_vllm_omni(replace(cloud, params=ECDiffParams(p=4, k=1, alpha=0.3, s=STEPS)))


def test_without_cache_dit_no_mask_is_called_another_than_its_own(
    cloud: TunedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("ecdiff_core.methods.masks", "ecdiff_tune.methods.export"):
        monkeypatch.setattr(f"{room}.find_spec", lambda _: None)
    with refused(ConfigError, key="mask", line="cache-dit is not installed"):
        to_vllm_omni(replace(cloud, params=ECDiffParams(p=4, k=1, alpha=0.3, s=STEPS)))


def test_what_cache_dit_cannot_be_told(cloud: TunedConfig, video_config: TunedConfig) -> None:
    with refused(ConfigError, key="s", got=video_config.plan().edge_calls, expected="0"):
        to_cache_dit(video_config)
    with refused(
        ConfigError, key="method", got="taylorseer", expected=["first_block_cache", "dbcache", "step_mask"]
    ):
        to_cache_dit(replace(cloud, method=CHOICES[1]))
    with refused(ConfigError, key="k", got=0):
        to_cache_dit(cloud)


@pytest.mark.parametrize("name", ["first_block_cache", "dbcache"])
def test_nothing_measures_ecdiffs_steps_together_with_a_method(cloud: TunedConfig, name: str) -> None:
    both = replace(cloud, params=ECDiffParams(p=3, k=2, alpha=0.3, s=STEPS), method=MethodChoice(name))
    assert "steps_computation_mask: [1, 1, 1, 0, 0, 1, 0, 0, 1]" in to_cache_dit(both)
    assert to_measure(both).endswith(f"no command measures a mask together with {name}")
    assert to_measure(replace(cloud, method=MethodChoice("dbcache"))) == ""


def test_the_command(cloud: TunedConfig, tmp_path: Path, command: Command) -> None:
    here = [f"output_dir={tmp_path}", "pair=custom", "pair.name=videos"]
    folder = tmp_path / "videos" / "default"
    folder.mkdir(parents=True)
    own = {"pair.name": "videos", "pair.cloud": "x", "pair.edge": "y"}
    (folder / "study.json").write_text(json.dumps({"settings": own, "created": "2026-01-01"}))
    refuses(command("export", *here), key="export.config", got=str(folder))
    replace(cloud, method=CHOICES[0], score={"quality": 0.9}).save(folder / "accelerated.yaml")
    outcome = command("export", "to=cache_dit", *here)
    assert outcome.status == 0, outcome
    text = (folder / "export" / "cache_dit.yaml").read_text()
    assert "residual_diff_threshold: 3.0" in text
    assert text.splitlines()[0].endswith(
        "mean SSIM 0.9000 to the images without it, with diffusers' FirstBlockCache"
    )
    assert "method=dbcache 'acceleration.values={residual_diff_threshold: 3.0, max" in outcome.out
    refuses(command("export", "to=sglng", *here), key="export.to", got="sglng")
    assert "method=step_mask" not in outcome.out
    replace(cloud, params=ECDiffParams(p=3, k=2, alpha=0.3, s=STEPS)).save(folder / "accelerated.yaml")
    outcome = command("export", "to=sglang", *here)
    assert "SCM_COMPUTE_BINS=3,1,1" in (folder / "export" / "sglang.env").read_text()
    assert "method=step_mask 'acceleration.values={mask: [1, 1, 1, 0, 0, 1, 0, 0, 1]}'" in outcome.out
