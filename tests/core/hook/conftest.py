"""A pipeline to hook and its edge, of Stable Diffusion where a test does not ask for another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ecdiff_core import ModelRef, PairSpec, TunedConfig, remove_ecdiff

from ...hooking import (
    Pipe,
    load,
)


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Stable Diffusion where a test does not ask for another."""
    return str(getattr(request, "param", "sd"))


@pytest.fixture(scope="module")
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue({"sd": "tiny_pair", "sdxl": "sdxl_pair"}[kind]))


@pytest.fixture(scope="module")
def config(kind: str, folder: Path, tiny_config: TunedConfig) -> TunedConfig:
    """With the plan ``tuned``, ``3C2A1C2A1C3E``."""
    pair = PairSpec(kind, ModelRef(str(folder / "cloud")), ModelRef(str(folder / "edge")))
    return replace(tiny_config, pair=pair)


@pytest.fixture(scope="module")
def loaded(kind: str, folder: Path) -> tuple[Pipe, Pipe]:
    cloud, edge = (load(folder / side, kind=kind) for side in ("cloud", "edge"))
    return cloud, edge


@pytest.fixture
def pipe(loaded: tuple[Pipe, Pipe]) -> Iterator[Pipe]:
    """The cloud's pipeline, bare before and after."""
    own, _ = loaded
    scheduler, unet = own.scheduler, own.unet
    yield own
    remove_ecdiff(own)
    own.scheduler, own.unet = scheduler, unet
    assert not {"_hf_hook", "_diffusers_hook"} & set(vars(unet))


@pytest.fixture
def edge(loaded: tuple[Pipe, Pipe]) -> Pipe:
    return loaded[1]
