"""What crosses from cloud to edge, and how long it takes: the paper's figures (A.6.1)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecdiff_core.errors import ParamsError
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.families.family import Size
from ecdiff_core.models.find import ModelFiles
from ecdiff_tune.evaluation.link import BYTES_PER_VALUE, Link

from ...refusals import refused

PAPER_MBPS = 18.88


@pytest.mark.parametrize(
    ("latents", "embeddings", "kilobytes", "seconds"),
    [
        pytest.param(4 * 64 * 64, 2 * 77 * 768, 263, 0.11, id="SD-v1.4"),
        pytest.param(4 * 128 * 128, 2 * 77 * 2048, 744, 0.32, id="SDXL"),
    ],
)
def test_the_papers_transfers(latents: int, embeddings: int, kilobytes: int, seconds: float) -> None:
    values = latents + embeddings
    assert round(values * BYTES_PER_VALUE / 1024) == kilobytes
    assert round(Link(mbps=PAPER_MBPS).transfer_seconds(values), 2) == seconds


def test_bandwidth_is_in_millions_of_bits_and_the_round_trip_comes_on_top() -> None:
    assert Link(mbps=16).transfer_seconds(1_000_000) == pytest.approx(1.0)
    assert Link(mbps=16, round_trip_seconds=0.05).transfer_seconds(1_000_000) == pytest.approx(1.05)


def test_one_machine_sends_nothing() -> None:
    assert Link().transfer_seconds(10**9) == 0.0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mbps", 0, "> 0"),
        ("mbps", -1.5, "> 0"),
        ("mbps", float("nan"), "> 0"),
        ("round_trip_seconds", -0.1, ">= 0"),
        ("round_trip_seconds", float("nan"), "to be a finite number"),
    ],
)
def test_refuses(key: str, value: float, expected: str) -> None:
    with refused(ParamsError, key=f"link.{key}", expected=expected):
        Link(**{key: value})


@pytest.mark.parametrize(("guidance_scale", "copies"), [(3.0, 2), (1.0, 1)], ids=["guided", "unguided"])
def test_payload_of_stable_diffusion(tiny_pair: Path, guidance_scale: float, copies: int) -> None:
    """Latents and embeddings of one prompt, however many are in the batch."""
    family = FAMILIES["StableDiffusionPipeline"].load(ModelFiles(tiny_pair / "cloud"), torch.float32)
    for prompts in (["a red ring"], ["a red ring", "a blue star", "a green cross"]):
        conditioning = family.encode(prompts, guidance_scale, Size(32, 32))
        latents = torch.zeros(len(prompts), 4, 8, 8)
        assert family.payload_values(conditioning, latents) == 4 * 8 * 8 + copies * 32 * 32
