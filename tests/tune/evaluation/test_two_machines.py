"""link=URL: the server's seconds, this machine's and the link between them, measured once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import CloudUnavailableError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.serving.handoff_form import facts_of
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.server_config import ServerConfig
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation import two_machines
from ecdiff_tune.evaluation.latency import LatencyError, LatencyProfile, Timing
from ecdiff_tune.evaluation.link import Link, MeasuredLink

from ...core.serving.conftest import TOKEN, serving
from ...refusals import refused
from ..studies import Study, refuses

URL = "http://gpu:8000"
MEASURED = MeasuredLink(URL, Spread(16.0, 15.0, 18.0), Spread(0.02, 0.01, 0.03))


def served(facts: dict[str, str]) -> ServerConfig:
    """What a server says of itself, of these facts."""
    seconds = {name: Spread(0.1, 0.1, 0.1) for name in two_machines.SERVED}
    return ServerConfig("1", "a GPU", facts, float(facts["guidance_scale"]), seconds, 0.1)


@pytest.mark.usefixtures("unshown")
def test_a_study_of_a_server_and_this_machine(
    study: Study, pipe: ECDiffPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured once: it goes on without the server, and the commands that read it know its link."""
    monkeypatch.setattr(latency_module, "CALLS", latency_module.WARM_UP_CALLS + 2)
    monkeypatch.setattr(two_machines, "DOWNLOAD_BYTES", 2**18)
    (study.folder / "latency.json").unlink()
    (tmp_path / "token").write_text(TOKEN)
    slow = Timing(0.9, 0.8, 1.0)
    monkeypatch.setattr(two_machines, "_served", lambda *_: {"cloud_call": slow, "encode": slow})
    with serving(pipe) as url:
        arguments = (f"link={url}", f"link.token_file={tmp_path / 'token'}", "heldout.num_prompts=0")
        outcome = study("reference", *arguments)
        assert outcome.status == 0, outcome
    path = study.folder / "latency.json"
    tree, profile = json.loads(path.read_text()), LatencyProfile.load(path)
    assert (profile.cloud_call, profile.encode) == (slow, slow)
    assert profile.edge_call.median < 0.5
    link = profile.link
    assert link is not None
    assert 0 < link.mbps.low <= link.mbps.median <= link.mbps.high
    values = 4 * 8 * 8 + 2 * 32 * 32
    assert profile.transfer_seconds == pytest.approx(link.link.transfer_seconds(values))
    assert tree["sources"]["edge_call"] == "this machine"
    assert tree["sources"]["cloud_call"].startswith(f"{url}, cpu (")
    assert f"link {link}" in outcome.out

    again = study("reference", *arguments[:1], "heldout.num_prompts=0")  # the server is gone
    assert again.status == 0, again
    assert json.loads(path.read_text()) == tree
    other = study("reference", f"link={URL}", "heldout.num_prompts=0")
    refuses(other, key=study.folder, got=[f'link.url "{url}" -> "{URL}"'])


def test_a_profile_with_a_measured_link_is_kept(latency: LatencyProfile, tmp_path: Path) -> None:
    profile = replace(latency, link=MEASURED, sources={"cloud_call": URL})
    profile.save(tmp_path / "latency.json")
    assert LatencyProfile.load(tmp_path / "latency.json") == profile
    assert profile.over(Link(1.0)).link is None


def test_each_later_cloud_call_takes_one_round_trip(
    pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        def __init__(self, *_: object) -> None: ...

        def config(self) -> ServerConfig:
            return served(facts_of(pipe))

        def measure(self, *_: int) -> tuple[Spread, Spread]:
            return MEASURED.round_trip_seconds, MEASURED.mbps

        def close(self) -> None: ...

    monkeypatch.setattr("ecdiff_core.serving.client.RemoteCloud", Server)
    monkeypatch.setattr(latency_module, "CALLS", latency_module.WARM_UP_CALLS + 2)
    found = two_machines.measure(pipe, Link(url=URL))
    assert found.cloud_call == found.encode == Timing(0.1, 0.1, 0.1)
    assert found.sources is not None
    assert found.sources["encode"] == f"{URL}, a GPU"
    once, thrice = Plan.from_schedule("2C10E"), Plan.from_schedule("2C3E1C2E1C3E")
    tensor = pipe.pair.family.latents_shape(pipe.size)
    assert found.transfer(once) == pytest.approx(0.02 + (256 + 2048) * 16 / 16e6)
    assert found.transfer(thrice) == pytest.approx(found.transfer(once) + 2 * 0.02 + 4 * 256 * 1e-6)
    assert tensor == (4, 8, 8)


@pytest.mark.parametrize(
    ("facts", "differs"),
    [
        ({"cloud": "another"}, "cloud"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"size": None}, "size"),
        ({"guidance_scale": "1.0"}, "guidance_scale"),
    ],
)
def test_a_server_of_something_else_is_refused(
    pipe: ECDiffPipeline, facts: dict[str, str | None], differs: str
) -> None:
    own = {"edge": "ours", **facts_of(pipe)}
    config = served({name: text for name, text in {**own, **facts}.items() if text is not None})
    with refused(LatencyError, key=URL) as caught:
        two_machines._served(config, pipe, URL)
    assert [*caught.value.got] == [differs]  # type: ignore[call-overload]
    unknown = {name: text for name, text in own.items() if name not in ("cloud", "edge")}
    another_plan = served({**unknown, "schedule": "12C", "guidance_scale": "7.5"})
    assert two_machines._served(another_plan, pipe, URL)["encode"].median == 0.1


def test_the_link_of_a_study_that_is_read(done: Study, tmp_path: Path) -> None:
    """Another server cannot be measured without models; a faster edge than cloud has no efficiency."""
    read = done.copy(tmp_path / "outputs")
    refuses(read("rerank", f"link={URL}"), key="link.url", got=URL)
    path = read.folder / "latency.json"
    replace(LatencyProfile.load(path), link=MEASURED).save(path)
    state = json.loads((read.folder / "study.json").read_text())
    state["settings"] |= {"link.url": URL, "link.mbps": None}
    (read.folder / "study.json").write_text(json.dumps(state))
    outcome = read("rerank")
    assert outcome.status == 0, outcome
    assert "scored as the study itself was" in outcome.out
    config = TunedConfig.load(read.folder / "rerank.yaml")
    assert config.provenance is not None
    assert config.provenance["latency"]["link"] == str(MEASURED)
    assert read("rerank", "link=none").status == 0
    refuses(read("rerank", "link.mbps=3"), key="link.url")


def test_a_server_that_is_faster_than_the_edge_is_told(study: Study, latency: LatencyProfile) -> None:
    fast = replace(latency, cloud_call=Timing(0.004, 0.004, 0.004), link=MEASURED, tensor_values=256)
    fast.save(study.folder / "latency.json")
    refuses(study("reference", f"link={URL}"), key="efficiency", got={"cloud": 0.004, "edge": 0.008})


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"url": URL, "mbps": 18.88}, "link.url"),
        ({"url": "gpu:8000"}, "link.url"),
    ],
)
def test_what_contradicts_a_url(given: dict[str, Any], key: str) -> None:
    with refused(key=key):
        Link(**given)


def test_nobody_there(pipe: ECDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecdiff_core.serving.transport.time.sleep", lambda _: None)
    with pytest.raises(CloudUnavailableError):
        two_machines.measure(pipe, Link(url="http://127.0.0.1:9"))


def test_a_server_that_refuses_is_told_before_the_pair_is_loaded(
    study: Study, pipe: ECDiffPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study.folder / "latency.json").unlink()
    (tmp_path / "token").write_text("another-token-altogether")
    monkeypatch.setattr("ecdiff_tune.study.open_study.load_pipe", pytest.fail)
    with serving(pipe) as url:
        outcome = study("reference", f"link={url}", f"link.token_file={tmp_path / 'token'}")
        refuses(outcome, key=url, got=401)
