"""Which model is on the device when, smaller batches when memory runs out, and what cannot be done."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from ecdiff_core import ECDiffPipeline, Memory, TunedConfig
from ecdiff_core.__main__ import main
from ecdiff_core.errors import ParamsError
from ecdiff_core.models.memory import Batches, OutOfMemoryError, one_at_a_time, place

from ...refusals import refused

CPU = torch.device("cpu")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more to say.")


class Moved(nn.Module):
    """Notes where it is sent."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self._name, self._log = name, log

    def to(self, device: object) -> Moved:  # type: ignore[override]
        self._log.append(f"{self._name} to {device}")
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_one_model_at_a_time_is_on_the_device() -> None:
    log: list[str] = []
    text, cloud, edge, vae = (Moved(name, log) for name in ("text", "cloud", "edge", "vae"))
    there = torch.device("cpu:0")  # any other device than "cpu", and one that this machine has
    one_at_a_time([text, cloud, edge, vae], there)
    assert log == [f"{name} to cpu" for name in ("text", "cloud", "edge", "vae")]
    log.clear()
    for model in (text, cloud, cloud, vae, text):  # a plan without edge steps
        assert model(torch.ones(2)).tolist() == [1, 1]
    assert log == [
        "text to cpu:0",
        "text to cpu",
        "cloud to cpu:0",
        "cloud to cpu",
        "vae to cpu:0",
        "vae to cpu",
        "text to cpu:0",
    ]


def test_a_generation_with_offload_is_the_same(tiny_config: TunedConfig) -> None:
    plain = ECDiffPipeline.from_config(tiny_config, device="cpu")
    expected = plain("a red ring", generator=torch.Generator().manual_seed(0)).latents
    moved = ECDiffPipeline.from_config(tiny_config, device="cpu")
    family = moved.pair.family
    one_at_a_time([*family.models, moved.pair.edge], torch.device("cpu"))
    assert family.device == CPU
    for _ in range(2):
        again = moved("a red ring", generator=torch.Generator().manual_seed(0))
        assert torch.equal(again.latents, expected)


def test_tiling_and_slicing_are_turned_on(tiny_config: TunedConfig) -> None:
    memory = Memory(vae_slicing=True, vae_tiling=True)
    vae = ECDiffPipeline.from_config(tiny_config, device="cpu", memory=memory).pair.family.pipeline.vae
    assert vae.use_slicing
    assert vae.use_tiling
    assert not ECDiffPipeline.from_config(tiny_config, device="cpu").pair.family.pipeline.vae.use_tiling


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_needs_an_accelerator(
    tiny_config: TunedConfig, offload: str, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with refused(ParamsError, key="offload", got=offload, expected="none"):
        ECDiffPipeline.from_config(tiny_config, device="cpu", memory=Memory(offload))  # type: ignore[arg-type]
    tiny_config.save(f"{tmp_path}/c.yaml")
    arguments = [
        "--config",
        f"{tmp_path}/c.yaml",
        "--prompt",
        "a",
        "--out",
        f"{tmp_path}/out",
        "--device",
        "cpu",
    ]
    assert main(["generate", *arguments, "--offload", offload]) == 2
    assert "needs an accelerator" in capsys.readouterr().err


def test_unknown_offload() -> None:
    with refused(ParamsError, key="offload", got="modle", nearest="model"):
        Memory("modle")  # type: ignore[arg-type]


def test_an_autoencoder_without_tiles() -> None:
    with refused(ParamsError, key="vae_tiling", got="Linear"):
        place([], nn.Linear(1, 1), CPU, Memory(vae_tiling=True))


# Batches.


def fitting(most: int) -> tuple[list[int], object]:
    """Work that runs out of memory above ``most`` rows, and the sizes that it was tried with."""
    tried: list[int] = []

    def work(rows: Sequence[int]) -> list[int]:
        tried.append(len(rows))
        if len(rows) > most:
            raise FULL
        return [10 * row for row in rows]

    return tried, work


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    said: list[str] = []
    batches = Batches(8, said.append)
    tried, work = fitting(2)
    done = list(batches.over([3, 1, 4, 1, 5, 9, 2, 6, 5], work))  # type: ignore[arg-type]
    assert [list(rows) for rows, _ in done] == [[3, 1], [4, 1], [5, 9], [2, 6], [5]]
    assert [result for _, result in done] == [[30, 10], [40, 10], [50, 90], [20, 60], [50]]
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    assert said == [
        "out of memory with 8 prompts at a time: going on with 4",
        "out of memory with 4 prompts at a time: going on with 2",
    ]
    assert batches.size == 2


def test_one_row_that_does_not_fit() -> None:
    tried, work = fitting(0)
    with refused(OutOfMemoryError, key="memory", got="CUDA out of memory. Tried to allocate 2.00 GiB"):
        list(Batches(3).over([1, 2, 3], work))  # type: ignore[arg-type]
    assert tried == [3, 1]


def test_the_cpus_allocator_counts() -> None:
    def work(rows: Sequence[int]) -> None:
        torch.empty(2**60)

    with refused(OutOfMemoryError, key="memory"):
        list(Batches(1).over([1], work))


def test_other_errors_pass_through() -> None:
    def work(rows: Sequence[int]) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(Batches(4).over([1, 2], work))


def test_generate_halves_its_batch(
    tiny_config: TunedConfig,
    tmp_path: object,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_config.save(f"{tmp_path}/c.yaml")
    encode = StableDiffusionPipeline.encode_prompt

    def limited(self: object, prompt: list[str], *rest: object, **more: object) -> object:
        if len(prompt) > 2:
            raise FULL
        return encode(self, prompt, *rest, **more)

    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", limited)
    prompts = [word for i in range(5) for word in ("--prompt", f"a red ring {i}")]
    arguments = [
        "generate",
        "--config",
        f"{tmp_path}/c.yaml",
        "--out",
        f"{tmp_path}/out",
        "--batch-size",
        "5",
    ]
    assert main([*arguments, *prompts]) == 0
    out, err = capsys.readouterr()
    assert [line.split("  ")[1] for line in out.splitlines()[:-1]] == [f"a red ring {i}" for i in range(5)]
    assert "note: out of memory with 5 prompts at a time: going on with 2" in err
