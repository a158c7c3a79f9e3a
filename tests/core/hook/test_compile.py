"""Compiled models, whole or block by block: the decision stays outside the graphs, which are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ecdiff_core import TunedConfig, apply_ecdiff, remove_ecdiff

from ..hooking import CALLS, assert_close, load, run


@pytest.fixture(autouse=True)
def forget_graphs() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("way", ["compiled, applied", "applied, compiled", "in place", "fullgraph"])
def test_compiled_without_recompilation(way: str, tiny_config: TunedConfig, tiny_pair: Path) -> None:
    pipe, edge = (load(tiny_pair / side) for side in ("cloud", "edge"))
    plain = run(pipe)
    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    remove_ecdiff(pipe)  # leaves nothing behind that would be compiled
    counter = CompileCounterWithBackend("eager")
    if way == "applied, compiled":
        apply_ecdiff(pipe, tiny_config, edge=edge)
    if way == "in place":
        pipe.unet.compile(backend=counter)
    else:
        pipe.unet = torch.compile(pipe.unet, backend=counter, fullgraph=way == "fullgraph")
    if way != "applied, compiled":
        apply_ecdiff(pipe, tiny_config, edge=edge)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_close(run(pipe), expected)
        graphs = counter.frame_count
        assert graphs > 0
        assert torch.equal(run(pipe), run(pipe))
    assert counter.frame_count == graphs
    assert pipe.ecdiff.calls == CALLS
    assert pipe.ecdiff.summary().startswith(str(tiny_config.plan()))
    remove_ecdiff(pipe)
    assert_close(run(pipe), plain)


@pytest.mark.parametrize("first", ["compiled", "applied"])
def test_compiled_block_by_block(first: str, tiny_config: TunedConfig, tiny_pair: Path) -> None:
    """Cloud and edge; every graph is made in the first call of its model."""
    pipe, edge = (load(tiny_pair / side) for side in ("cloud", "edge"))
    apply_ecdiff(pipe, tiny_config, edge=edge)
    expected = run(pipe)
    if first == "compiled":
        remove_ecdiff(pipe)
    counters = {name: CompileCounterWithBackend("eager") for name in CALLS}
    pipe.unet.compile_repeated_blocks(backend=counters["cloud"], fullgraph=True)
    edge.unet.compile_repeated_blocks(backend=counters["edge"], fullgraph=True)
    if first == "compiled":
        apply_ecdiff(pipe, tiny_config, edge=edge)
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
