"""What is no config, no pair, no prompt: one line that says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ecdiff_core import ECDiffPipeline, ModelRef, PairSpec, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.models.pair import load_pair

from ..refusals import refused

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
ANY: Any = None


@pytest.fixture(scope="module")
def pipe(tiny_config: TunedConfig) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(tiny_config, device="cpu")


@pytest.mark.parametrize(
    ("call", "key", "got"),
    [
        (lambda _: ECDiffPipeline(ANY or 5), "pair and config", ("int", "NoneType")),
        (lambda config: ECDiffPipeline(ANY, config), "pair and config", ("NoneType", "TunedConfig")),
        (lambda _: ECDiffPipeline.from_config(ANY), "a config", None),
        (lambda _: ECDiffPipeline.from_config(ANY or 123), "a config", 123),
        (lambda config: ECDiffPipeline.from_config(config, memory=ANY or 5), "memory", 5),
        (lambda config: apply_ecdiff(None, config), "pipe", "NoneType"),
        (lambda _: apply_ecdiff(torch, ANY), "config", None),
        (lambda _: remove_ecdiff(None), "pipe", "NoneType"),
        (lambda _: load_pair(ANY, **PLACE), "the pair", None),
        (lambda _: TunedConfig.load(ANY or 5), "a config", 5),
        (lambda _: TunedConfig.from_yaml(ANY or 5), "the config", 5),
        (lambda config: config.save(5), "the config's path", 5),
        (lambda _: TunedConfig(ANY or 5, ANY, ANY), "pair", 5),
        (lambda _: PairSpec("a", ANY, ANY), "the pair's cloud", None),
        (lambda _: ModelRef(ANY or 5), "a model's id", 5),
    ],
)
def test_what_is_given_in_place_of_a_config(
    call: Callable[[TunedConfig], Any], key: str, got: object, tiny_config: TunedConfig
) -> None:
    with refused(key=key, got=got):
        call(tiny_config)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("prompt", [5]),
        ("negative_prompt", 5),
        ("generator", "int"),
        ("callback_on_step_end", 5),
        ("on_step", 5),
    ],
)
def test_a_call(name: str, got: object, pipe: ECDiffPipeline) -> None:
    with refused(key=name, got=got):
        pipe(**{"prompt": "a circle", name: ANY or 5})
