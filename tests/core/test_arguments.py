"""What is no config, no pair, no prompt: one line that says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ecdiff_core import ECDiffPipeline, ModelRef, PairSpec, TunedConfig, apply_ecdiff, remove_ecdiff
from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.pair import load_pair

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
ANY: Any = None


@pytest.fixture(scope="module")
def pipe(tiny_config: TunedConfig) -> ECDiffPipeline:
    return ECDiffPipeline.from_config(tiny_config, device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: ECDiffPipeline(ANY or 5), r"a loaded pair .*, got int and NoneType. .*from_config"),
        (lambda config: ECDiffPipeline(ANY, config), "got NoneType and TunedConfig"),
        (lambda _: ECDiffPipeline.from_config(ANY), "a TunedConfig or the path of its YAML file, got None"),
        (lambda _: ECDiffPipeline.from_config(ANY or 123), "a TunedConfig or the path .*, got 123"),
        (lambda config: ECDiffPipeline.from_config(config, memory=ANY or 5), "memory to be a Memory or None"),
        (lambda config: apply_ecdiff(None, config), "NoneType has neither unet nor transformer"),
        (lambda _: apply_ecdiff(torch, ANY), "a tuned config or the path of its YAML file, got NoneType"),
        (lambda _: remove_ecdiff(None), "NoneType has neither unet nor transformer"),
        (lambda _: load_pair(ANY, **PLACE), "the pair to be a PairSpec, .* got None"),
        (lambda _: TunedConfig.load(ANY or 5), "a TunedConfig or the path of its YAML file, got 5"),
        (lambda _: TunedConfig.from_yaml(ANY or 5), "to be YAML text, got 5"),
        (lambda config: config.save(5), "path to be text or a Path, got 5"),
        (lambda _: TunedConfig(ANY or 5, ANY, ANY), "pair to be of type PairSpec, got 5"),
        (lambda _: PairSpec("a", ANY, ANY), "the pair's cloud to be a ModelRef, got None"),
        (lambda _: ModelRef(ANY or 5), "a model's id to be printable text on one line, got 5"),
    ],
)
def test_what_is_given_in_place_of_a_config(
    call: Callable[[TunedConfig], Any], message: str, tiny_config: TunedConfig
) -> None:
    with pytest.raises(ECDiffError, match=message) as caught:
        call(tiny_config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": 5}, "Expected a prompt or a list of at least one prompt"),
        ({"negative_prompt": 5}, "negative_prompt to be text or a list of texts, got 5"),
        ({"generator": 5}, "generator to be a torch.Generator, or a list with one an image, got int"),
        ({"callback_on_step_end": 5}, "callback_on_step_end to be a function, got 5"),
        ({"on_step": 5}, "on_step to be a function, got 5"),
    ],
)
def test_a_call(given: dict[str, Any], message: str, pipe: ECDiffPipeline) -> None:
    with pytest.raises(ECDiffError, match=message):
        pipe(**{"prompt": "a circle", **given})
