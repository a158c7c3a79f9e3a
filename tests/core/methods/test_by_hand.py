"""Every method against the same one switched on by hand in a plain diffusers script."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline, StableDiffusion3Pipeline, hooks
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from diffusers.hooks.mag_cache import apply_mag_cache
from diffusers.hooks.sea_cache import apply_sea_cache
from torch import Tensor, nn

from ecdiff_core import ModelRef, PairSpec, TunedConfig
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.hook.apply import apply_ecdiff, remove_ecdiff
from ecdiff_core.methods import METHODS, get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.enable import Enabled, enable, obstacle

from ...hooking import STEPS as ALL_STEPS
from ...hooking import Pipe, denoise, load
from ...hooking import run as run_all
from ...refusals import refused
from ...small_sd3 import sd3_transformer

STEPS = 8
RATIOS = [1.0, *[0.97, 1.02] * STEPS][:STEPS]
VALUES: dict[str, dict[str, Any]] = {
    "first_block_cache": {"threshold": 2.0},
    "taylorseer": {"cache_interval": 3, "max_order": 2},
    "mag_cache": {"threshold": 0.2, "mag_ratios": RATIOS},
    "sea_cache": {"threshold": 0.5},
    "pab": {"spatial_attention_block_skip_range": 3},
    "faster_cache": {"unconditional_batch_skip_range": 3, "unconditional_below": 900, "attention_below": 900},
    "deepcache": {"cache_interval": 3},
    "tome": {"ratio": 0.5, "max_downsample": 2},
    "dbcache": {
        "residual_diff_threshold": 2.0,
        "max_warmup_steps": 2,
        "calibrator": "taylorseer",
        "taylorseer_order": 2,
    },
    "step_mask": {"warmup": 3, "skipped": 2},
}
MODULES = [r"(.+\.)?transformer_blocks\.\d+\.(attn\d?|ff|ff_context)"]


def run(pipe: Pipe, **settings: Any) -> Tensor:
    return run_all(pipe, **{"num_inference_steps": STEPS, **settings})


def model_of(pipe: Pipe) -> nn.Module:
    return getattr(pipe, "unet", None) or pipe.transformer


def enabled(pipe: Pipe, name: str, counts: bool = True, num_steps: int = STEPS, **values: Any) -> Enabled:
    return enable(
        get_method(name),
        model_of(pipe),
        VALUES[name] | values,
        num_steps=num_steps,
        guided=True,
        video=isinstance(pipe, CogVideoXPipeline),
        scheduler=lambda: pipe.scheduler,
        counts=counts,
    )


@pytest.fixture(scope="module")
def pipes(tiny_pair: Path, sd3_pair_without_t5: Path, tiny_videos: Path) -> dict[str, Pipe]:
    flow = StableDiffusion3Pipeline.from_pretrained(
        sd3_pair_without_t5 / "cloud", text_encoder_3=None, tokenizer_3=None
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow.transformer = sd3_transformer(3)
    found = {
        "unet": load(tiny_pair / "cloud"),
        "flow": flow,
        "video": CogVideoXPipeline.from_pretrained(tiny_videos / "cloud"),
    }
    for pipe in found.values():
        pipe.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def plain(pipes: dict[str, Pipe]) -> dict[str, Tensor]:
    return {kind: run(pipe) for kind, pipe in pipes.items()}


CASES = [
    ("unet", "taylorseer"),
    ("unet", "pab"),
    ("unet", "deepcache"),
    ("unet", "tome"),
    *(("flow", name) for name in METHODS if name not in ("deepcache", "tome", "sea_cache")),
    *(("video", name) for name in METHODS if name not in ("deepcache", "tome", "sea_cache")),
]
PACKAGES = {"deepcache": "DeepCache", "tome": "tomesd", "dbcache": "cache_dit", "step_mask": "cache_dit"}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind, name = request.param
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"needs {PACKAGES[name]}")
    return kind, name


def by_hand(pipe: Pipe, name: str) -> Callable[[], None]:
    """What a person writes; returns how they take it off."""
    model, off = model_of(pipe), lambda: HookRegistry.check_if_exists_or_initialize(model)
    names: list[str] = []
    if name == "deepcache":
        from DeepCache import DeepCacheSDHelper

        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=3, cache_branch_id=0)
        helper.enable()
        return helper.disable
    if name == "tome":
        import tomesd

        tomesd.apply_patch(model, ratio=0.5, max_downsample=2, use_rand=False)
        return lambda: tomesd.remove_patch(model)
    if name in ("dbcache", "step_mask"):
        import cache_dit

        config = cache_dit.DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=2.0)
        calibrator = cache_dit.TaylorSeerCalibratorConfig(True, False, taylorseer_order=2)
        if name == "step_mask":
            mask = [1, 1, 1, 0, 0, 1, 0, 0]
            config.update(steps_computation_mask=mask, steps_computation_policy="static")
        cache_dit.enable_cache(pipe, config, calibrator if name == "dbcache" else None)

        def disable() -> None:
            cache_dit.disable_cache(pipe)
            vars(pipe.transformer).pop("forward", None)  # it leaves one

        return disable
    timestep: list[float] = []
    signature = inspect.signature(type(model).forward)

    def listen(_: nn.Module, args: Any, kwargs: Any) -> None:
        timestep[:] = [float(signature.bind(model, *args, **kwargs).arguments["timestep"].max())]

    handle = model.register_forward_pre_hook(listen, with_kwargs=True)
    if name == "first_block_cache":
        blocks: Any = model
        if pipe.__class__ is StableDiffusion3Pipeline:
            blocks = nn.Module()
            blocks.transformer_blocks = nn.ModuleList(list(model.transformer_blocks)[:-1])
        hooks.apply_first_block_cache(blocks, hooks.FirstBlockCacheConfig(threshold=2.0))
        names = ["fbc_leader_block_hook", "fbc_block_hook"]
    if name == "taylorseer":
        config = hooks.TaylorSeerCacheConfig(3, 3, None, 2, torch.float32, cache_identifiers=MODULES)
        hooks.apply_taylorseer_cache(model, config)
        names = ["taylorseer_cache"]
    if name == "mag_cache":
        apply_mag_cache(model, hooks.MagCacheConfig(0.2, num_inference_steps=STEPS, mag_ratios=RATIOS))
        names = ["mag_cache_leader_block_hook", "mag_cache_block_hook"]
    if name == "pab":
        config = hooks.PyramidAttentionBroadcastConfig(
            3, cross_attention_block_skip_range=1, current_timestep_callback=lambda: timestep[0]
        )
        hooks.apply_pyramid_attention_broadcast(model, config)
        names = ["pyramid_attention_broadcast"]
    if name == "faster_cache":
        config = hooks.FasterCacheConfig(
            unconditional_batch_skip_range=3,
            unconditional_batch_timestep_skip_range=(-1, 900),
            spatial_attention_timestep_skip_range=(-1, 900),
            attention_weight_callback=lambda _: 0.5,
            current_timestep_callback=lambda: timestep[0],
            tensor_format="BFCHW" if hasattr(pipe, "vae_scale_factor_temporal") else "BCHW",
            _unconditional_conditional_input_kwargs_identifiers=[
                "hidden_states",
                "encoder_hidden_states",
                "timestep",
                "pooled_projections",
            ],
        )
        hooks.apply_faster_cache(model, config)
        names = ["faster_cache_denoiser", "faster_cache_block"]

    def remove() -> None:
        handle.remove()
        for one in names:
            off().remove_hook(one)

    off()  # so that the context reaches every hook
    _set_cache_context(model, CacheContext("one"))
    return remove


def test_images_equal_those_by_hand_and_nothing_is_left(
    pipes: dict[str, Pipe], plain: dict[str, Tensor], case: tuple[str, str]
) -> None:
    kind, name = case
    pipe = pipes[kind]
    before, forwards = attributes(model_of(pipe)), forwards_of(model_of(pipe))
    children = list(model_of(pipe).named_children())
    with enabled(pipe, name) as on:
        with refused(PairError, key="method", got=name, line="already"):
            enabled(pipe, name)
        fail_inside_a_call(pipe)
        if kind == "flow":
            be_interrupted(pipe)
        ours, hits = run(pipe), on.hits
    on.disable()
    assert list(model_of(pipe).named_children()) == children
    assert forwards_of(model_of(pipe)) == forwards
    assert not [name for name, own in attributes(model_of(pipe)).items() if own - before[name]]
    take_off = by_hand(pipe, name)
    try:
        theirs = run(pipe)
    finally:
        take_off()
    assert torch.equal(ours, theirs)  # and of the generations that did not end nothing was reused
    assert torch.equal(run(pipe), plain[kind])
    assert len(hits.calls) == STEPS
    assert (hits.reused > 0) == (name != "tome")
    assert (ours - plain[kind]).abs().max() > 1e-4


def fail_inside_a_call(pipe: Pipe) -> None:
    """A layer of the first block fails in a later call; what a method puts in is where it was."""
    model, ran = model_of(pipe), []
    children = list(model.named_children())
    name = "down_blocks.0.resnets.0.conv1" if hasattr(model, "down_blocks") else "transformer_blocks.0.norm1"

    def fail(*_: Any) -> None:
        ran.append(1)
        if len(ran) == 3:
            raise RuntimeError("out of memory")

    handle = model.get_submodule(name).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(pipe)
    handle.remove()
    assert list(model.named_children()) == children


COUNTING = {
    name: next(kind for kind, other in CASES if other == name)
    for name in METHODS
    if get_method(name).parameter(get_method(name).dial).in_calls
}


WARM_UP = {"step_mask": {"warmup": 1}, "taylorseer": {"disable_cache_before_step": 1, "max_order": 0}}
"""One call, so that the dial counts all others."""


@pytest.mark.parametrize("name", COUNTING)
def test_more_calls_than_a_generation_has_are_all_of_them(pipes: dict[str, Pipe], name: str) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"needs {PACKAGES[name]}")
    pipe, steps, dial = pipes[COUNTING[name]], 6, get_method(name).dial
    made = []
    for calls in (steps, steps + 3):
        values = {**WARM_UP.get(name, {}), dial: calls}
        with enabled(pipe, name, num_steps=steps, **values) as on:
            made.append((run(pipe, num_inference_steps=steps), on.hits))
    (latents, hits), (others, same) = made
    assert hits == same
    assert hits.reused > 0
    assert torch.equal(latents, others)


def forwards_of(model: nn.Module) -> list[Any]:
    return [vars(module).get("forward") for module in model.modules()]


def test_sea_cache_by_hand(pipes: dict[str, Pipe], plain: dict[str, Tensor]) -> None:
    pipe = pipes["video"]
    before, forwards = attributes(pipe.transformer), forwards_of(pipe.transformer)
    with enabled(pipe, "sea_cache") as on:
        fail_inside_a_call(pipe)
        be_interrupted(pipe)
        ours, hits = run(pipe), on.hits
    assert forwards_of(pipe.transformer) == forwards
    assert attributes(pipe.transformer) == before
    assert 0 < hits.reused < STEPS  # without its context it runs whole, without a word
    model = pipe.transformer
    apply_sea_cache(
        model,
        hooks.SeaCacheConfig(
            0.5, raw_vision_callback=lambda _, args, kw: list(kw["hidden_states"].transpose(1, 2))
        ),
    )
    kept = pipe.scheduler.alphas_cumprod

    def tell(_: nn.Module, args: Any, kwargs: Any) -> None:
        step = int((pipe.scheduler.timesteps == kwargs["timestep"].max()).nonzero())
        signal = float(kept[int(kwargs["timestep"].max())])
        share = (1 - signal) ** 0.5 / (signal**0.5 + (1 - signal) ** 0.5)
        _set_cache_context(model, CacheContext("cond_uncond", step, STEPS, None, share))

    handle = model.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        theirs = run(pipe)
    finally:
        handle.remove()
        for name in ("post_norm", "block", "leader_block", "root"):
            model._diffusers_hook.remove_hook(f"sea_cache_{name}")
    assert torch.equal(ours, theirs)
    assert torch.equal(run(pipe), plain["video"])


def attributes(model: nn.Module) -> dict[str, set[str]]:
    return {
        name: set(vars(module)) - {"_diffusers_hook", "forward"} for name, module in model.named_modules()
    }


def be_interrupted(pipe: Pipe) -> None:
    """Between two calls."""

    def interrupt(_: Pipe, step: int, *__: Any) -> dict[str, Any]:
        if step == 4:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(pipe, callback_on_step_end=interrupt)


@pytest.mark.parametrize(
    ("kind", "name", "ecdiff_first", "removed_first"),
    [
        ("unet", "taylorseer", True, "ecdiff"),
        ("unet", "taylorseer", False, "method"),
        ("unet", "deepcache", True, "method"),
        ("unet", "deepcache", False, "ecdiff"),
        ("flow", "first_block_cache", True, "ecdiff"),
        ("flow", "first_block_cache", False, "method"),
        ("flow", "dbcache", True, "method"),
        ("flow", "step_mask", False, "ecdiff"),
    ],
)
def test_either_order_with_ecdiff(
    pipes: dict[str, Pipe],
    tiny_pair: Path,
    sd3_pair_without_t5: Path,
    tiny_config: TunedConfig,
    kind: str,
    name: str,
    ecdiff_first: bool,
    removed_first: str,
) -> None:
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"needs {PACKAGES[name]}")
    pipe, config = deepcopy(pipes[kind]), tiny_config
    edge = load(tiny_pair / "edge")
    if kind == "flow":
        folder, flow = sd3_pair_without_t5, "FlowMatchEulerDiscreteScheduler"
        edge = StableDiffusion3Pipeline.from_pretrained(
            folder / "edge", text_encoder_3=None, tokenizer_3=None
        )
        spec = PairSpec("sd3", ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge")))
        config = replace(config, pair=spec, sampling=replace(config.sampling, scheduler=flow))
    plain, alone = run_all(pipe), deepcopy(pipe)

    def apply() -> None:
        apply_ecdiff(pipe, config, edge=edge)

    if ecdiff_first:
        apply()
    on = enabled(pipe, name, num_steps=ALL_STEPS)
    if not ecdiff_first:
        apply()
    both = run_all(pipe)
    assert len(on.hits.calls) == pipe.ecdiff.calls["cloud"] == 5  # the steps that are EC-Diff's are not its
    remove = {"ecdiff": lambda: remove_ecdiff(pipe), "method": on.disable}
    remove.pop(removed_first)()
    left = run_all(pipe)
    if removed_first == "method":
        assert pipe.ecdiff.calls == {"cloud": 5, "edge": 3}
        apply_ecdiff(alone, config, edge=edge)
        assert torch.equal(left, run_all(alone))
    else:
        assert len(on.hits.calls) == ALL_STEPS
    (last,) = remove.values()
    last()
    assert torch.equal(run_all(pipe), plain)
    assert (both - left).abs().max() > 1e-4


def test_what_does_not_apply(pipes: dict[str, Pipe]) -> None:
    unet, flow, video = (model_of(pipes[kind]) for kind in ("unet", "flow", "video"))
    reasons = {
        ("first_block_cache", unet): "it needs two transformer blocks or more whose outputs can be reused",
        ("mag_cache", unet): "it has no list of transformer blocks",
        (
            "sea_cache",
            flow,
        ): "its last block returns no stream of the prompt, which diffusers' SeaCache keeps",
        ("deepcache", video): "it is for U-Nets, not for CogVideoXTransformer3DModel",
        ("tome", flow): "it is for U-Nets, not for SD3Transformer2DModel",
    }
    for (name, model), reason in reasons.items():
        assert obstacle(get_method(name), model, STEPS) == reason
    assert obstacle(get_method("taylorseer"), unet, 2) == "2 steps end within its warm-up of 2"
    with refused(ParamsError, key="method.values", got="mag_cache", expected=["mag_ratios"]):
        enable(get_method("mag_cache"), video, {}, num_steps=STEPS, guided=True)
    with refused(
        ParamsError,
        key="method.values.disable_cache_before_step",
        got=0,
        expected="to be a whole number within 1 … 1000",
    ):
        enabled(pipes["unet"], "taylorseer", disable_cache_before_step=0)


def test_another_thread_is_refused_in_the_middle_of_a_generation(pipes: dict[str, Pipe]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pipe = pipes["unet"]
    busy = [True]
    on = enable(
        get_method("taylorseer"),
        pipe.unet,
        {},
        num_steps=STEPS,
        guided=True,
        scheduler=lambda: pipe.scheduler,
        busy=lambda _: busy[0],
    )
    with on, ThreadPoolExecutor(1) as other:
        begun = run(pipe)
        with refused(ParamsError, key="pipe", got="busy"):
            other.submit(run, pipe).result()
        busy[0] = False
        assert torch.equal(other.submit(run, pipe).result(), begun)


def test_branches_of_guidance_have_caches_of_their_own(pipes: dict[str, Pipe]) -> None:
    pipe = pipes["unet"]
    with torch.no_grad(), enabled(pipe, "taylorseer"):
        together, apart = denoise(pipe, 1), denoise(pipe, 2)
    assert (together - apart).abs().max() <= 1e-5 * max(1.0, together.abs().max().item())


needs_cache_dit = pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")


@needs_cache_dit
@pytest.mark.parametrize(
    ("calibrator", "config"), [("foca", "FoCaCalibratorConfig"), ("dmd", "DMDCalibratorConfig")]
)
def test_calibrators_of_cache_dit_by_hand(pipes: dict[str, Pipe], calibrator: str, config: str) -> None:
    import cache_dit

    pipe = pipes["video"]
    with enabled(pipe, "dbcache", counts=False, calibrator=calibrator):
        ours = run(pipe)
    given = cache_dit.DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=2.0)
    cache_dit.enable_cache(pipe, given, getattr(cache_dit, config)(True, False))
    try:
        theirs = run(pipe)
        reason = "cache-dit is on in it already: call cache_dit.disable_cache() first"
        assert obstacle(get_method("dbcache"), pipe.transformer, STEPS) == reason
    finally:
        cache_dit.disable_cache(pipe)
        vars(pipe.transformer).pop("forward", None)
    assert torch.equal(ours, theirs)


@needs_cache_dit
def test_a_mask_decides_which_calls_are_computed(pipes: dict[str, Pipe]) -> None:
    pipe, mask = pipes["flow"], (1, 0, 1, 1, 0, 0, 1, 0)
    with enabled(pipe, "step_mask", mask=mask) as on:
        run(pipe)
        assert tuple(int(call.is_whole) for call in on.hits.calls) == mask
    for wrong in ([1, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1]):
        with pytest.raises(ParamsError) as error:
            enabled(pipe, "step_mask", mask=wrong)
        assert (error.value.key, error.value.got) == ("method.values.mask", wrong)
    assert not hasattr(model_of(pipe), "ecdiff_method")
    blocks = len(model_of(pipe).transformer_blocks)
    for first, last in ((blocks + 1, 0), (blocks, 1)):  # else some are applied twice
        with pytest.raises(ParamsError) as error:
            enabled(pipe, "dbcache", Fn_compute_blocks=first, Bn_compute_blocks=last)
        assert error.value.got == {"Fn_compute_blocks": first, "Bn_compute_blocks": last}
    with pytest.raises(ParamsError) as error:
        enabled(pipe, "dbcache", calibrator="fooca")
    assert (error.value.key, error.value.got) == ("method.values.calibrator", "fooca")


def test_masks_of_cache_dit() -> None:
    pytest.importorskip("cache_dit")
    presets = get_method("step_mask").presets
    found = {name: sum(values["mask"]) for name, values in presets(28).items()}
    assert found == {"slow": 18, "medium": 15, "fast": 11, "ultra": 8}
    assert presets(5) == {}
    choice = MethodChoice("step_mask", {"mask": [1, 0, 1]})
    assert choice.text == "Step mask skipped=2 warmup=6 mask=101"
