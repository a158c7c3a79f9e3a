"""One pipeline of very small models for each family, whose plan goes back and forth; servers in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ecdiff_core import (
    ECDiffParams,
    ECDiffPipeline,
    ModelRef,
    PairSpec,
    RemoteCloud,
    Sampling,
    TunedConfig,
)
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.listen import Listen
from ecdiff_core.serving.server import make_server

TOKEN = "a-token-of-the-tests"
FAMILIES = {
    "tiny_pair": Sampling(9, guidance_scale=3.0),
    "sdxl_pair": Sampling(9, scheduler="DPMSolverMultistepScheduler", guidance_scale=3.0),
    "sd3_pair": Sampling(9, scheduler="FlowMatchEulerDiscreteScheduler", guidance_scale=3.0),
    "tiny_videos": Sampling(9, scheduler="CogVideoXDDIMScheduler", guidance_scale=3.0),
}
INTERLEAVED = ECDiffParams.interleaved([0, 1, 3, 6], [4, 7, 8], alpha=0.3, residual=0.5)
"""The plan 2C1A1B1M1A1B2M, handed over before step 4; the cloud is asked again at step 6."""


def config_of(folder: Path, sampling: Sampling, params: ECDiffParams = INTERLEAVED) -> TunedConfig:
    refs = [ModelRef(str(folder / side)) for side in ("cloud", "edge")]
    return TunedConfig(PairSpec("tiny", *refs), params, sampling)


@pytest.fixture(scope="session")
def tiny_pipe(tiny_pair: Path) -> ECDiffPipeline:
    """Both models of the tiny pair in one process."""
    return ECDiffPipeline.from_config(config_of(tiny_pair, FAMILIES["tiny_pair"]), device="cpu")


@pytest.fixture(scope="session", params=FAMILIES)
def pipe(request: pytest.FixtureRequest) -> ECDiffPipeline:
    """Both models of each family in one process."""
    if request.param == "tiny_pair":
        return request.getfixturevalue("tiny_pipe")
    folder = request.getfixturevalue(request.param)
    return ECDiffPipeline.from_config(config_of(folder, FAMILIES[request.param]), device="cpu")


@contextmanager
def serving(
    pipe: ECDiffPipeline,
    token: str | None = TOKEN,
    listen: Listen | None = None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
    **limits: Any,
) -> Iterator[str]:
    """The URL of a server in a thread, which runs within ``around``."""
    urls: queue.Queue[str] = queue.Queue()
    limits = {"drain_seconds": 2, **limits}
    server = make_server(pipe, listen or Listen(port=0, token=token), Limits(**limits), urls.put)

    def run() -> None:
        with around():
            server.run()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield urls.get(timeout=60)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def url(tiny_pipe: ECDiffPipeline) -> Iterator[str]:
    """Of a server of the tiny pair."""
    with serving(tiny_pipe) as found:
        yield found


@pytest.fixture(scope="session")
def edge(tiny_pair: Path, url: str) -> ECDiffPipeline:
    """The tiny pair's edge alone; tests give it clouds of their own."""
    config = config_of(tiny_pair, FAMILIES["tiny_pair"])
    return ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(url, TOKEN))
