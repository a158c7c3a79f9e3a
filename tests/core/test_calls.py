"""``ECDiffPipeline`` called, moved and printed as a diffusers pipeline is."""

from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from torch import Tensor

from ecdiff_core import ECDiffParams, ECDiffPipeline, TunedConfig
from ecdiff_core.errors import ParamsError

from ..hooking import PROMPT, seeded, with_sampling
from ..refusals import refused


@pytest.fixture(scope="module")
def pipe(tiny_config: TunedConfig) -> ECDiffPipeline:
    config = replace(tiny_config, params=ECDiffParams(p=2, k=1, alpha=0.3, s=4))
    return ECDiffPipeline.from_config(with_sampling(config, num_inference_steps=6), device="cpu")


def test_several_images_of_a_prompt(pipe: ECDiffPipeline) -> None:
    """In diffusers' order, each with its own noise, and negative prompts go with their prompts."""
    prompts, negatives = [PROMPT, "two words"], ["blue", ""]
    found = pipe(
        prompts,
        negative_prompt=negatives,
        num_images_per_prompt=2,
        generator=[seeded(seed) for seed in range(4)],
    )
    assert len(found.images) == 4
    for row in range(4):
        alone = pipe(prompts[row // 2], negative_prompt=negatives[row // 2], generator=seeded(row))
        assert torch.allclose(found.latents[row], alone.latents[0], atol=1e-4)
    repeated = pipe([PROMPT] * 3, generator=seeded()).latents
    assert torch.allclose(
        pipe(PROMPT, num_images_per_prompt=3, generator=seeded()).latents, repeated, atol=1e-4
    )


def test_output_types(pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pil = pipe(PROMPT, generator=seeded())
    array = pipe(PROMPT, generator=seeded(), output_type="np").images
    tensor = pipe(PROMPT, generator=seeded(), output_type="pt").images
    assert (array.shape, array.dtype, tensor.shape) == ((1, 32, 32, 3), np.float32, (1, 3, 32, 32))
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal((array[0] * 255).round().astype(np.uint8), np.asarray(pil.images[0]))
    monkeypatch.setattr(type(pipe.pair.family), "decode", None)  # is not called
    assert torch.equal(pipe(PROMPT, generator=seeded(), output_type="latent").images, pil.latents)


def test_video_arrays(video_config: TunedConfig) -> None:
    pipe = ECDiffPipeline.from_config(video_config, device="cpu")
    array = pipe(PROMPT, generator=seeded(), output_type="np").images
    assert array.shape == (1, 9, 32, 32, 3)
    assert repr(pipe).endswith("32x32, 9 frames, float32 on cpu)")


def test_a_callback_sees_and_changes_latents(pipe: ECDiffPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(own: Any, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert own is pipe
        assert list(given) == ["latents"]
        seen.append((step, float(timestep)))
        return given

    def double(own: Any, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": given["latents"] * (2 if step == 5 else 1)}

    plain, steps = pipe(PROMPT, generator=seeded()), []
    noted = pipe(
        PROMPT,
        generator=seeded(),
        callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=["latents"],
        on_step=lambda step, *_: steps.append(step),
    )
    assert torch.equal(noted.latents, plain.latents)
    assert seen == [(step, float(timestep)) for step, timestep in enumerate(pipe.scheduler.timesteps)]
    assert steps == list(range(6))
    doubled = pipe(PROMPT, generator=seeded(), callback_on_step_end=double, output_type="latent")
    assert torch.equal(doubled.images, 2 * plain.latents)
    nothing = pipe(PROMPT, generator=seeded(), callback_on_step_end=lambda *_: None)
    assert torch.equal(nothing.latents, plain.latents)


def test_an_interrupt_ends_the_call_that_asks_for_it(pipe: ECDiffPipeline) -> None:
    """Not another thread's; one from outside of all calls ends them all."""
    together = threading.Barrier(2)

    def generate(last: int | None, wait: bool) -> int:
        def after(own: Any, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if wait and step < 2:
                together.wait(timeout=60)
            own._interrupt = own._interrupt or step == last
            return given

        found = pipe(PROMPT, generator=seeded(), callback_on_step_end=after, output_type="latent")
        return found.plan.num_steps

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(generate, [1, None], [True, True])) == [2, 6]

    def outside(own: Any, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 3:
            with ThreadPoolExecutor(1) as other:
                other.submit(setattr, own, "_interrupt", True).result()
        return given

    cut = pipe(PROMPT, generator=seeded(), callback_on_step_end=outside, output_type="latent")
    assert cut.plan.num_steps == 4


def test_a_callback_that_interrupts(pipe: ECDiffPipeline) -> None:
    kept: list[Tensor] = []

    def stop(own: Any, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(given["latents"])
        own._interrupt = step == 2
        return given

    plain = pipe(PROMPT, generator=seeded())
    cut = pipe(PROMPT, generator=seeded(), callback_on_step_end=stop)
    assert cut.plan == plain.plan.until(3)
    assert torch.equal(cut.latents, kept[2])
    assert len(cut.images) == 1
    assert torch.equal(pipe(PROMPT, generator=seeded()).latents, plain.latents)


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"guidance_scale": 7.5}, {"got": 7.5, "expected": "= 3.0, which the config was tuned for"}),
        ({"num_inference_steps": 50}, {"got": 50, "expected": "= 6, which the config was tuned for"}),
        ({"height": 64}, {"got": 64, "expected": "= 32, which the config was tuned for"}),
        ({"num_images_per_prompt": 0}, {"got": 0, "expected": ">= 1"}),
        ({"generator": [seeded()], "num_images_per_prompt": 2}, {"got": 1, "expected": "one or 2"}),
        ({"output_type": "pilot"}, {"got": "pilot", "nearest": "pil"}),
    ],
)
def test_arguments_that_are_refused(pipe: ECDiffPipeline, arguments: Any, refusal: Any) -> None:
    with refused(ParamsError, key=next(iter(arguments)), **refusal):
        pipe(PROMPT, **arguments)


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"eta": 1.0}, {"line": "takes no eta: choose from .*apply_ecdiff"}),
        ({"negative_promt": "blue"}, {"line": "takes no negative_promt: ", "nearest": "negative_prompt"}),
        (
            {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            {"line": r"\['latents'\] alone, got 'prompt_embeds'"},
        ),
        (
            {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.4)},
            {"line": "alone, got 'prompt_embeds'"},
        ),
        (
            {"callback_on_step_end": lambda *_: {"prompt_embeds": 1}},
            {"line": r"return \['latents'\] alone"},
        ),
        (
            {"callback_on_step_end": lambda *_: {"latents": torch.ones(1)}},
            {"key": "the callback", "got": (1,), "expected": "to return latents of (1, 4, 8, 8)"},
        ),
    ],
)
def test_callbacks_and_names_that_are_refused(pipe: ECDiffPipeline, arguments: Any, refusal: Any) -> None:
    with refused(ParamsError, **refusal):
        pipe(PROMPT, **arguments)


def test_the_config_s_own_values_may_be_typed(pipe: ECDiffPipeline) -> None:
    found = pipe(PROMPT, generator=seeded(), guidance_scale=3, num_inference_steps=6, width=32, eta=None)
    assert torch.equal(found.latents, pipe(PROMPT, generator=seeded()).latents)


def test_a_tuple_as_diffusers_gives_it(pipe: ECDiffPipeline) -> None:
    found: Any = pipe(PROMPT, generator=seeded(), output_type="pt", return_dict=False)
    assert type(found) is tuple
    assert len(found) == 1
    assert torch.equal(found[0], pipe(PROMPT, generator=seeded(), output_type="pt", return_dict=True).images)


def test_no_prompt_is_one_line(pipe: ECDiffPipeline) -> None:
    for given in ((), (None,), ([],)):
        with refused(ParamsError, key="prompt"):
            pipe(*given)


def test_a_bar_of_steps_where_it_is_asked_for(
    pipe: ECDiffPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copy.deepcopy(pipe)
    steps: list[int] = []
    own(PROMPT, output_type="latent", on_step=lambda step, *_: steps.append(step))
    own.set_progress_bar_config(disable=True)
    own(PROMPT, output_type="latent")
    assert capsys.readouterr().err == ""
    own.set_progress_bar_config(desc="mine")
    own(PROMPT, output_type="latent")
    told = capsys.readouterr().err
    assert "mine" in told
    assert "6/6" in told
    assert steps == list(range(6))


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload_is_asked_for_as_in_diffusers(pipe: ECDiffPipeline, kind: str) -> None:
    """On a device that computes nothing, for the hooks alone are looked at; and twice in a row."""
    own = copy.deepcopy(pipe)
    offload = getattr(own, f"enable_{kind}_cpu_offload")
    with refused(ParamsError, key="offload", got=kind):
        offload(device="cpu")
    assert own.device.type == "cpu"
    own.enable_model_cpu_offload(device="meta")
    offload(device="meta")
    assert own.device.type == "meta"
    with refused(ParamsError, key="device", got="cpu", expected="none"):
        own.to("cpu")
    assert hasattr(own.pair.edge, "_hf_hook")


def test_to(pipe: ECDiffPipeline) -> None:
    assert pipe.to("cpu") is pipe
    assert pipe.to(torch.float32) is pipe
    assert pipe.to(device=torch.device("cpu"), dtype=torch.float32) is pipe
    for given in ({"dtype": torch.float16}, {"device": torch.float16}):
        with refused(ParamsError, key="dtype", got="float16", expected="float32"):
            pipe.to(**given)
    with refused(ParamsError, key="device", got="cuda:99"):
        pipe.to("cuda:99")
    other = copy.deepcopy(pipe).to("meta")
    assert {parameter.device.type for parameter in other.pair.edge.parameters()} == {"meta"}
    assert other.device.type == "meta"
    assert pipe.device.type == "cpu"


def test_repr(pipe: ECDiffPipeline) -> None:
    assert repr(pipe) == (
        "ECDiffPipeline(tiny: StableDiffusionPipeline, 6 steps = 3 cloud + 1 approximated + 2 edge, "
        "DDIMScheduler, guidance_scale 3, 32x32, float32 on cpu)"
    )


def test_eight_threads_on_two_pipelines_of_a_pair(
    pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to one after another; tokenizers, which may not be, are not called by two at once."""
    prompts = [" ".join([PROMPT] * (1 + seed % 2)) + f" {seed}" for seed in range(8)]
    alone = [
        pipe(prompt, generator=seeded(seed), output_type="latent").latents
        for seed, prompt in enumerate(prompts)
    ]
    pipes = pipe, ECDiffPipeline(pipe.pair, pipe.config)
    encode, inside, most = pipe.pair.family.encode, [0], [0]
    together = threading.Barrier(8)

    def watched(*args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        found = encode(*args, **kwargs)
        inside[0] -= 1
        return found

    def generate(seed: int) -> Tensor:
        together.wait(timeout=600)
        own = pipes[seed // 2 % 2]
        return own(prompts[seed], generator=seeded(seed), output_type="latent").latents

    monkeypatch.setattr(pipe.pair.family, "encode", watched)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(generate, range(8)))
    for one, expected in zip(found, alone, strict=True):
        assert torch.equal(one, expected)
    assert most == [1]


@pytest.mark.parametrize(
    ("scheduler", "params", "wanted", "scaled"),
    [
        ("DDIMScheduler", ECDiffParams(7, 2, 0.3, 34), 25, ECDiffParams(4, 2, 0.3, 17)),
        ("DDIMScheduler", ECDiffParams(7, 2, 0.3, 34), 1, ECDiffParams(1, 0, 0.3, 1)),
        ("PNDMScheduler", ECDiffParams(7, 2, 0.3, 51), 25, ECDiffParams(4, 2, 0.3, 26)),
        (
            "DDIMScheduler",
            ECDiffParams.scheduled([0, 1, 2, 20, 40], 0.5, 45),
            25,
            ECDiffParams.scheduled([0, 1, 10, 20], 0.5, 22),
        ),
    ],
)
def test_a_config_for_another_number_of_steps(
    scheduler: str, params: ECDiffParams, wanted: int, scaled: ECDiffParams, tiny_config: TunedConfig
) -> None:
    config = with_sampling(tiny_config, num_inference_steps=50, scheduler=scheduler)
    config = replace(config, params=params, score={"quality": 0.9}, scheduler_config={"steps_offset": 1})
    found = config.scaled(wanted)
    assert found.params == scaled
    assert found.sampling == replace(config.sampling, num_inference_steps=wanted)
    assert (found.score, found.scheduler_config) == (None, {"steps_offset": 1})
    assert found.plan().num_steps == found.sampling.num_steps
    with refused(ParamsError, key="num_inference_steps", got=0, expected=">= 1"):
        config.scaled(0)
    with refused(ParamsError, key="num_inference_steps", got=12.5, expected="to be a whole number >= 1"):
        config.scaled(12.5)  # type: ignore[arg-type]
