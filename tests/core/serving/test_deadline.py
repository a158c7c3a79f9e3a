"""A deadline takes the best row of a config's front that server, link and edge allow, and says why."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ecdiff_core import ECDiffParams, ECDiffPipeline, RemoteCloud, TunedConfig
from ecdiff_core.__main__ import main
from ecdiff_core.errors import CloudError, ParamsError
from ecdiff_core.front import FrontRow
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.serving import transport
from ecdiff_core.serving.deadline import Costs, choose
from ecdiff_core.serving.handoff_form import HandoffForm
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.packet import size_bytes
from ecdiff_core.serving.seconds import edge_timings

from ...refusals import refused
from .conftest import FAMILIES, INTERLEAVED, TOKEN, config_of, serving
from .test_commands import NOWHERE, Capture, image

FRONT = (
    FrontRow(ECDiffParams.hybrid(2), 0.6, 0.2),
    FrontRow(INTERLEAVED, 0.8, 0.3),
    FrontRow(ECDiffParams(2, 1, 0.5, 9), 0.7, 0.4, estimator="secant"),
    FrontRow(ECDiffParams.hybrid(8), 0.9, 0.5),
)


def spread(value: float) -> Spread:
    return Spread(value, value, value)


TIMINGS = {"cloud_call": 0.1, "encode": 0.01, "edge_call": 0.02, "decode": 0.05}
COSTS = Costs({name: spread(value) for name, value in TIMINGS.items()}, spread(0.03), spread(1.0), "computed")


@pytest.fixture
def config(tiny_pair: Path) -> TunedConfig:
    return replace(config_of(tiny_pair, FAMILIES["tiny_pair"]), front=FRONT)


@pytest.fixture
def whole(config: TunedConfig, tiny_pipe: ECDiffPipeline) -> ECDiffPipeline:
    return ECDiffPipeline(tiny_pipe.pair, replace(config, pair=tiny_pipe.pair.spec))


def test_seconds_of_two_machines(whole: ECDiffPipeline) -> None:
    packet = size_bytes(HandoffForm(whole).form, "computed")
    parts = COSTS.of(whole)  # 2C1A1B1M1A1B2M
    assert parts["cloud"] == pytest.approx(0.01 + 4 * 0.1)
    assert parts["edge"] == pytest.approx((3 + 2) * 0.02 + 0.05)
    assert parts["link"] == pytest.approx(2 * 0.03 + (packet + 2 * 4 * 256) * 8e-6)
    half = replace(COSTS, encoding="float16").of(whole)
    assert half["link"] == pytest.approx(
        2 * 0.03 + (size_bytes(HandoffForm(whole).form, "float16") + 2 * 2 * 256) * 8e-6
    )


def test_the_size_of_a_packet_is_what_is_sent(whole: ECDiffPipeline) -> None:
    form = HandoffForm(whole, "hybrid")
    begun = whole.prepare(["a"], generator=torch.Generator().manual_seed(0))
    for encoding in ("computed", "float16", "int8"):
        sent = len(form.write(begun.start, begun.conditioning, encoding))
        assert 0 < sent - size_bytes(form.form, encoding) < 4096


@pytest.mark.parametrize(
    ("deadline", "row", "told"),
    [
        (9.0, 4, "it is the best of all"),
        (0.85, 2, r"the next better, 0\.9000, would take 0\.98 s"),
        (0.62, 1, r"the next better, 0\.7000, would take"),
    ],
)
def test_the_best_that_keeps_the_deadline(
    whole: ECDiffPipeline, deadline: float, row: int, told: str
) -> None:
    found = choose(whole, COSTS, deadline)
    assert (found.number, found.row) == (row, FRONT[row - 1])
    assert found.pipe.config.params == FRONT[row - 1].params
    assert sum(found.parts.values()) <= deadline
    assert str(found).startswith(f"row {row} of 4 keeps {deadline:g} s: quality {FRONT[row - 1].quality:.4f}")

    assert re.search(told, str(found))


def test_none_keeps_it(whole: ECDiffPipeline) -> None:
    fastest = sum(COSTS.of(ECDiffPipeline(whole.pair, whole.config.of_row(FRONT[0]))).values())
    with refused(ParamsError, key="deadline", got=0.1, expected=f">= {fastest:.2f} seconds"):
        choose(whole, COSTS, 0.1)


def test_every_row_is_served_by_one_server(
    config: TunedConfig,
    whole: ECDiffPipeline,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row's image is that of one process, and its metadata says which it was and why."""
    asked: list[int] = []
    measure = RemoteCloud.measure

    def measured(cloud: RemoteCloud, repeats: int, size: int) -> tuple[Spread, Spread]:
        asked.append(size)
        return measure(cloud, repeats, size)

    monkeypatch.setattr(RemoteCloud, "measure", measured)
    config.save(tmp_path / "ecdiff.yaml")
    (tmp_path / "token").write_text(TOKEN)
    with serving(whole) as url:
        own = config.of_row(FRONT[2])
        edge = ECDiffPipeline.from_config(own, device="cpu", cloud=RemoteCloud(url, TOKEN))
        alone = ECDiffPipeline(whole.pair, replace(own, pair=whole.pair.spec))
        one, other = (
            pipe("a ring", generator=torch.Generator().manual_seed(3)).latents for pipe in (edge, alone)
        )
        assert torch.equal(one, other)
        given = (
            "--prompt",
            "a ring",
            "--seed",
            "3",
            "--device",
            "cpu",
            "--config",
            f"{tmp_path}/ecdiff.yaml",
        )
        cloud = ("--cloud", url, "--token-file", f"{tmp_path}/token", "--deadline", "60")
        assert main(["generate", *given, *cloud, "--out", str(tmp_path)]) == 0
        note = capsys.readouterr().err
        pipe = ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(url, TOKEN), deadline=60)
        stranger = config.of_row(FrontRow(ECDiffParams.hybrid(5), 0.5, 0.5))
        edge = ECDiffPipeline.from_config(stranger, device="cpu", cloud=RemoteCloud(url, TOKEN))
        with pytest.raises(CloudError, match="schedule '5C4E'"):
            edge("a ring", generator=torch.Generator().manual_seed(3))
    png = image(tmp_path)
    assert "note: row 4 of 4 keeps 60 s: quality 0.9000 in about" in note
    assert png.text["ecdiff:choice"] in note
    assert png.text["ecdiff:plan"] == "8C1E"
    assert TunedConfig.from_yaml(png.text["ecdiff:config"]).params == FRONT[3].params
    assert pipe.config.params == FRONT[3].params
    assert pipe.choice.startswith("row 4 of 4")
    assert asked == [size_bytes(HandoffForm(whole).form, "computed")] * 2


def test_the_edges_seconds_need_no_text_encoder(config: TunedConfig) -> None:
    edge = ECDiffPipeline.from_config(config, device="cpu", side="edge")
    found = edge_timings(edge)
    assert set(found) == {"edge_call", "decode"}
    assert all(0 < one.low <= one.median < 1 for one in found.values())


def test_what_a_deadline_needs(config: TunedConfig, tiny_pipe: ECDiffPipeline) -> None:
    with refused(ParamsError, key="deadline", got=1.0):
        tiny_pipe.within(1.0)
    with refused(ParamsError, key="deadline", expected="> 0 seconds"):
        ECDiffPipeline.from_config(config, device="cpu", cloud=RemoteCloud(NOWHERE), deadline=0)


def test_what_cannot_be_is_refused_before_anything_is_loaded(
    config: TunedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = dict.fromkeys(("both", "cloud", "edge"), pytest.fail)
    monkeypatch.setattr("ecdiff_core.pipeline._LOADERS", loaded)
    cloud, load = RemoteCloud(NOWHERE), ECDiffPipeline.from_config
    for given, some in ((cloud, replace(config, front=None)), (None, config)):
        with refused(ParamsError, key="deadline", got=1.0):
            load(some, device="cpu", cloud=given, deadline=1.0)
    with refused(ParamsError, key="deadline", got=re.compile("nan")):
        load(config, device="cpu", cloud=cloud, deadline=math.nan)
    with refused(ParamsError, key="method", got="taylorseer"):
        load(replace(config, method=MethodChoice("taylorseer")), device="cpu", cloud=cloud)
    with refused(ParamsError, key="side", got="cluod"):
        load(config, device="cpu", side="cluod")  # type: ignore[arg-type]


def test_without_the_cloud_the_fallback_goes_on(
    config: TunedConfig, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SimpleNamespace(sleep=lambda _: None, perf_counter=time.perf_counter)
    monkeypatch.setattr(transport, "time", own)
    config.save(tmp_path / "ecdiff.yaml")
    given = ("generate", "--config", f"{tmp_path}/ecdiff.yaml", "--prompt", "a ring", "--seed", "3")
    more = ("--device", "cpu", "--out", str(tmp_path), "--cloud", NOWHERE, "--deadline", "1")
    assert main([*given, *more]) == 2
    assert main([*given, *more, "--fallback", "edge"]) == 0
    assert image(tmp_path).text["ecdiff:mode"] == "edge"
    assert capsys.readouterr().err.count("The edge's model does all steps.") == 1
