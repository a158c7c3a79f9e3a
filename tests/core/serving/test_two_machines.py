"""A server and an edge make the same image as one process, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from ecdiff_core import ECDiffPipeline, RemoteCloud
from ecdiff_core.errors import CloudError, PairError, ParamsError
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.models.memory import Memory
from ecdiff_core.serving.cloud_side import Sides
from ecdiff_core.serving.listen import Listen
from ecdiff_core.serving.transport import Retry
from shaped_link import Shape, ShapedLink
from two_namespaces import CLOUD_ADDRESS, NamespaceError, two_namespaces

from ...refusals import refused
from .conftest import FAMILIES, TOKEN, config_of, serving

PROMPT = "a small red ring"
SHAPE = Shape(mbps=18.88, round_trip_seconds=0.02)


def made(pipe: ECDiffPipeline, *prompts: str, seed: int = 3, **others: object) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    return pipe(list(prompts), generator=generators, output_type="pt", **others).images  # type: ignore[arg-type]


@contextmanager
def behind_a_proxy(whole: ECDiffPipeline) -> Iterator[str]:
    with serving(whole) as url, ShapedLink(url, SHAPE) as link:
        yield link.url


@contextmanager
def behind_a_veth_pair(whole: ECDiffPipeline) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            spaces = stack.enter_context(two_namespaces(SHAPE))
            stack.enter_context(spaces.entered(spaces.edge))
        except NamespaceError as error:
            pytest.skip(str(error))
        listen = Listen(CLOUD_ADDRESS, 0, TOKEN)
        yield stack.enter_context(serving(whole, listen=listen, around=lambda: spaces.entered(spaces.cloud)))


@pytest.mark.parametrize("link", [behind_a_proxy, behind_a_veth_pair])
def test_images_over_a_slow_link_equal_those_of_one_process(
    pipe: ECDiffPipeline, link: Callable[[ECDiffPipeline], AbstractContextManager[str]]
) -> None:
    with link(pipe) as url:
        edge = ECDiffPipeline.from_config(pipe.config, device="cpu", cloud=RemoteCloud(url, TOKEN))
        for mode in ("ecdiff", "hybrid"):  # back and forth; one way
            assert torch.equal(made(edge, PROMPT, mode=mode), made(pipe, PROMPT, mode=mode))


def test_a_slow_link_is_measured_as_slow_as_it_is(url: str) -> None:
    with ShapedLink(url, SHAPE) as link:
        trip, rate = RemoteCloud(link.url, TOKEN).measure(repeats=3, size_bytes=2**17)
    assert 0.02 < trip.low < 0.2
    assert 0.5 * 18.88 < rate.median < 2 * 18.88  # a busy machine adds to either


def test_every_mode_and_a_negative_prompt(tiny_pair: Path, tiny_pipe: ECDiffPipeline, url: str) -> None:
    cloud = RemoteCloud(url, TOKEN)
    config = config_of(tiny_pair, FAMILIES["tiny_pair"])
    edge = ECDiffPipeline.from_config(config, device="cpu", cloud=cloud)
    for mode in ("cloud", "edge"):
        assert torch.equal(made(edge, PROMPT, mode=mode), made(tiny_pipe, PROMPT, mode=mode))
    given = {"negative_prompt": "a star"}
    assert torch.equal(made(edge, PROMPT, **given), made(tiny_pipe, PROMPT, **given))
    assert not torch.equal(made(edge, PROMPT, **given), made(edge, PROMPT))
    served = cloud.config()
    assert served.facts["schedule"] == "2C1A1B1M1A1B2M"
    assert (served.guidance_scale, served.device[:3]) == (3.0, "cpu")
    for one in served.timings.values():
        assert 0 < one.low <= one.median <= one.high < 5
    cloud.close()


def test_several_images_go_side_by_side(tiny_pair: Path, tiny_pipe: ECDiffPipeline, url: str) -> None:
    config = config_of(tiny_pair, FAMILIES["tiny_pair"])
    edge = ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(url, TOKEN))
    prompts = (PROMPT, "a blue star", "two green squares")
    torch.testing.assert_close(made(edge, *prompts), made(tiny_pipe, *prompts), atol=1e-5, rtol=0)
    output = edge(PROMPT, num_images_per_prompt=2, output_type="np")
    assert output.images.shape[0] == 2
    assert np.abs(output.images[0] - output.images[1]).max() > 0.01
    assert output.seconds.cloud > 0


def test_needs_neither_the_clouds_model_nor_its_text_encoder(
    tiny_pair: Path, tiny_pipe: ECDiffPipeline, url: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_pair, tmp_path / "pair")
    for part in ("unet", "text_encoder"):
        for weights in (tmp_path / "pair" / "cloud" / part).glob("*.safetensors"):
            weights.unlink()
    config = config_of(tmp_path / "pair", FAMILIES["tiny_pair"])
    edge = ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(url, TOKEN))
    assert torch.equal(made(edge, PROMPT), made(tiny_pipe, PROMPT))
    loaded = sum(p.numel() for model in edge._models for p in model.parameters())
    own = sum(
        p.numel() for model in (tiny_pipe.pair.edge, tiny_pipe.pair.family.vae) for p in model.parameters()
    )
    assert loaded == own


def test_the_server_needs_no_weights_of_the_edge(
    tiny_pair: Path, tiny_pipe: ECDiffPipeline, tmp_path: Path
) -> None:
    shutil.copytree(tiny_pair, tmp_path / "pair")
    for weights in (tmp_path / "pair" / "edge").rglob("*.safetensors"):
        weights.unlink()
    config = config_of(tmp_path / "pair", FAMILIES["tiny_pair"])
    cloud = ECDiffPipeline.from_config(config, device="cpu", side="cloud")
    assert torch.equal(made(cloud, PROMPT, mode="cloud"), made(tiny_pipe, PROMPT, mode="cloud"))
    with refused(PairError, key="edge"):
        made(cloud, PROMPT)


@pytest.mark.parametrize("side", ["both", "cloud", "edge"])
def test_other_weights_and_offload_to_the_cpu_are_refused_before_anything_is_loaded(
    side: Literal["both", "cloud", "edge"], tiny_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("one_side", "pair"):
        monkeypatch.setattr(f"ecdiff_core.models.{room}.load_or_refuse", pytest.fail)
    config, own = config_of(tiny_pair, FAMILIES["tiny_pair"]), "cloud" if side == "both" else side
    other = replace(getattr(config.pair, own), fingerprint="another")
    changed = replace(config, pair=replace(config.pair, **{own: other}))
    with refused(PairError, key=f"{own}.fingerprint", expected="another"):
        ECDiffPipeline.from_config(changed, device="cpu", side=side)
    with refused(ParamsError, key="offload", got="model"):
        ECDiffPipeline.from_config(config, device="cpu", side=side, memory=Memory("model"))


@pytest.mark.parametrize(("packet", "bound"), [("float16", 0.01), ("int8", 0.1)])
def test_smaller_packets_cost_little(
    packet: str, bound: float, tiny_pair: Path, tiny_pipe: ECDiffPipeline, url: str
) -> None:
    config = config_of(tiny_pair, FAMILIES["tiny_pair"])
    cloud = RemoteCloud(url, TOKEN, packet=packet)  # type: ignore[arg-type]
    edge = ECDiffPipeline.from_config(config, device="cpu", cloud=cloud)
    off = (made(edge, PROMPT) - made(tiny_pipe, PROMPT)).abs().mean()
    assert 0 < off < bound


def test_another_config_is_refused_with_the_difference(tiny_pair: Path, url: str) -> None:
    sampling = FAMILIES["tiny_pair"]
    other = config_of(tiny_pair, type(sampling)(9, guidance_scale=2.0))
    edge = ECDiffPipeline.from_config(other, device="cpu", cloud=RemoteCloud(url, TOKEN, retry=Retry(1)))
    with refused(CloudError, key=url, got=409, line=r"guidance_scale '2\.0' \| '3\.0'"):
        made(edge, PROMPT)


def test_a_method_is_refused_on_either_machine(tiny_pipe: ECDiffPipeline) -> None:
    config = replace(tiny_pipe.config, method=MethodChoice("taylorseer"))
    with refused(ParamsError, key="method", got="taylorseer"):
        ECDiffPipeline(tiny_pipe.pair, config, RemoteCloud("http://127.0.0.1:9"))
    with refused(ParamsError, key="method", got="taylorseer"):
        Sides(ECDiffPipeline(tiny_pipe.pair, config))


def test_a_generator_that_was_drawn_from_is_refused(tiny_pair: Path, url: str) -> None:
    config = config_of(tiny_pair, FAMILIES["tiny_pair"])
    edge = ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(url, TOKEN))
    used = torch.Generator().manual_seed(0)
    torch.rand(1, generator=used)
    for generator, prompts in ((used, PROMPT), (torch.Generator().manual_seed(0), [PROMPT, PROMPT])):
        with refused(ParamsError, key="generator", got=1):
            edge(prompts, generator=generator)
