"""Compiled models, whole or block by block: the decision stays outside the graphs, which are made once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.hooks import HookRegistry
from torch._dynamo.testing import CompileCounterWithBackend

from ecdiff_core import ModelRef, PairSpec, TunedConfig, apply_ecdiff, remove_ecdiff

from ... import small_unets
from ...hooking import CALLS, assert_close, load, run


@pytest.fixture(scope="module")
def least_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of one level with attention, of which a graph takes a second to make."""
    make = partial(
        small_unets.sd_unet,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
    )
    folder = tmp_path_factory.mktemp("least")
    small_unets.save_sd_models(folder, {"cloud": make, "edge": make})
    return folder


@pytest.fixture(scope="module")
def least_config(least_pair: Path, tiny_config: TunedConfig) -> TunedConfig:
    """With the plan ``3C2A1C2A1C3E``."""
    models = (ModelRef(str(least_pair / side)) for side in ("cloud", "edge"))
    return replace(tiny_config, pair=PairSpec("least", *models))


@pytest.fixture(autouse=True)
def forget_graphs() -> None:
    torch._dynamo.reset()


WAYS = ["compiled, applied", "applied, compiled", "in place", "after other hooks", "twice"]


@pytest.mark.parametrize("way", WAYS)
def test_compiled_without_recompilation(way: str, least_config: TunedConfig, least_pair: Path) -> None:
    pipe, edge = (load(least_pair / side) for side in ("cloud", "edge"))
    plain = run(pipe)
    apply_ecdiff(pipe, least_config, edge=edge)
    expected = run(pipe)
    remove_ecdiff(pipe)  # leaves nothing behind that would be compiled
    counter = CompileCounterWithBackend("eager")
    if way == "after other hooks":  # diffusers leaves an empty registry of them on the model
        HookRegistry.check_if_exists_or_initialize(pipe.unet)
    if way in ("applied, compiled", "twice"):
        apply_ecdiff(pipe, least_config, edge=edge)
    if way == "in place":
        pipe.unet.compile(backend=counter)
    else:
        pipe.unet = torch.compile(pipe.unet, backend=counter, fullgraph=way == "compiled, applied")
    if way != "applied, compiled":
        apply_ecdiff(pipe, least_config, edge=edge)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_close(run(pipe), expected)
        graphs = counter.frame_count
        assert graphs > 0
        assert torch.equal(run(pipe), run(pipe))
    assert counter.frame_count == graphs
    assert pipe.ecdiff.calls == CALLS
    assert pipe.ecdiff.summary().startswith(str(least_config.plan()))
    remove_ecdiff(pipe)
    assert_close(run(pipe), plain)


@pytest.mark.parametrize("first", ["compiled", "applied"])
def test_compiled_block_by_block(first: str, least_config: TunedConfig, least_pair: Path) -> None:
    """Cloud and edge; every graph is made in the first call of its model."""
    pipe, edge = (load(least_pair / side) for side in ("cloud", "edge"))
    apply_ecdiff(pipe, least_config, edge=edge)
    expected = run(pipe)
    if first == "compiled":
        remove_ecdiff(pipe)
    counters = {name: CompileCounterWithBackend("eager") for name in CALLS}
    pipe.unet.compile_repeated_blocks(backend=counters["cloud"], fullgraph=True)
    edge.unet.compile_repeated_blocks(backend=counters["edge"], fullgraph=True)
    if first == "compiled":
        apply_ecdiff(pipe, least_config, edge=edge)
    made: list[tuple[int, int]] = []

    def count(_: object, step: int, timestep: object, given: object) -> dict[str, object]:
        made.append((counters["cloud"].frame_count, counters["edge"].frame_count))
        return {}

    assert_close(run(pipe, callback_on_step_end=count), expected)
    cloud, edge_graphs = made[-1]
    assert cloud > 0
    assert edge_graphs > 0
    assert made == [(cloud, 0)] * 9 + [(cloud, edge_graphs)] * 3
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_close(run(pipe, callback_on_step_end=count), expected)
    assert made[-1] == (cloud, edge_graphs)
    assert pipe.ecdiff.calls == CALLS
