"""``method:`` of a tuned config, in diffusers' pipeline and in ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecdiff_core import (
    ECDiffParams,
    ECDiffPipeline,
    MethodChoice,
    TunedConfig,
    apply_ecdiff,
    apply_tuned,
    remove_tuned,
)
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.methods import get_method
from ecdiff_core.methods.enable import enable, enabled_on
from ecdiff_core.methods.in_pair import accelerated

from ...hooking import PROMPT, STEPS, assert_close, load, run, seeded
from ...refusals import refused

TAYLOR = MethodChoice("taylorseer", {"cache_interval": 3})


@pytest.fixture(scope="module")
def config(tiny_config: TunedConfig) -> TunedConfig:
    """TaylorSeer in the cloud model alone."""
    return replace(tiny_config, params=ECDiffParams.cloud_only(STEPS), method=TAYLOR)


def latents(pipe: ECDiffPipeline) -> Tensor:
    return pipe(PROMPT, generator=seeded(), output_type="latent").latents


def test_a_yaml_with_a_method(config: TunedConfig, tmp_path: Path) -> None:
    config.save(tmp_path / "tuned.yaml")
    assert TunedConfig.load(tmp_path / "tuned.yaml") == config
    assert config.format_version == 3
    text = config.to_yaml()
    with refused(ConfigError, key="method", got="tailorseer", nearest="taylorseer"):
        TunedConfig.from_yaml(text.replace("name: taylorseer", "name: tailorseer"))
    with refused(ParamsError, key="method.values", got="cache_intervall", nearest="cache_interval"):
        TunedConfig.from_yaml(text.replace("cache_interval", "cache_intervall"))
    with refused(
        ParamsError, key="method.values.cache_interval", got=30, expected="to be a whole number within 1 … 20"
    ):
        TunedConfig.from_yaml(text.replace("cache_interval: 3", "cache_interval: 30"))


def test_applied_as_generated_as_by_hand(config: TunedConfig, tiny_pair: Path) -> None:
    ours, pipe = ECDiffPipeline.from_config(config, device="cpu"), load(tiny_pair / "cloud")
    untouched = run(pipe)
    apply_tuned(pipe, config)
    applied = run(pipe)
    assert_close(latents(ours), applied)
    assert (applied - untouched).abs().max() > 1e-3
    assert torch.equal(latents(ours), latents(ours))
    remove_tuned(pipe)
    remove_tuned(pipe)
    assert torch.equal(run(pipe), untouched)
    hand = enable(
        get_method("taylorseer"),
        pipe.unet,
        TAYLOR.values,
        num_steps=STEPS,
        guided=True,
        scheduler=lambda: pipe.scheduler,
    )
    with hand:
        assert torch.equal(run(pipe), applied)
    assert_close(ours(PROMPT, generator=seeded(), output_type="latent", mode="cloud").latents, untouched)


def test_a_method_beside_ecdiff(tiny_config: TunedConfig, tiny_pair: Path) -> None:
    config = replace(tiny_config, method=MethodChoice("taylorseer", {"disable_cache_before_step": 2}))
    pipe, edge = load(tiny_pair / "cloud"), load(tiny_pair / "edge")
    with refused(ConfigError, key="method", got="taylorseer"):
        apply_ecdiff(pipe, config, edge)
    apply_tuned(pipe, config, edge)
    both = run(pipe)
    assert pipe.ecdiff.calls == {"cloud": 5, "edge": 3}
    assert_close(latents(ECDiffPipeline.from_config(config, device="cpu")), both)
    apply_tuned(pipe, tiny_config, edge)  # replaces it
    assert enabled_on(pipe.unet) is None
    assert (run(pipe) - both).abs().max() > 1e-4


def test_what_cannot_be_applied_leaves_nothing(config: TunedConfig, tiny_pair: Path) -> None:
    pipe = load(tiny_pair / "cloud")
    with refused(PairError, key="method", got="mag_cache"):
        apply_tuned(pipe, replace(config, method=MethodChoice("mag_cache", {"mag_ratios": [1.0] * STEPS})))
    assert not hasattr(pipe, "ecdiff")
    assert enabled_on(pipe.unet) is None


def test_two_threads_take_turns(config: TunedConfig) -> None:
    pipe = ECDiffPipeline.from_config(config, device="cpu")
    alone = latents(pipe)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: latents(pipe), range(2)))
    assert all(torch.equal(one, alone) for one in found)
    with accelerated(pipe.pair, TAYLOR, STEPS, 3.0, pipe.scheduler, counts=True) as on:
        assert on is not None
        latents(ECDiffPipeline(pipe.pair, replace(config, method=None)))
    assert str(on.hits) == "3C1R1C2R1C2R1C1R"
