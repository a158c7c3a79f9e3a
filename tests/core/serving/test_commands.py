"""``generate --cloud``, ``serve`` and ``link`` as a user calls them."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from ecdiff_core import ECDiffPipeline, TunedConfig, batch_size
from ecdiff_core.__main__ import main
from ecdiff_core.errors import ParamsError
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.serving.cloud_option import PACKETS
from ecdiff_core.serving.commands import _fastest_size
from ecdiff_core.serving.limits import Limits
from ecdiff_core.serving.listen import Listen, bound
from ecdiff_core.serving.packet import Encoding
from ecdiff_core.serving.server import make_server

from ...refusals import refused
from .conftest import FAMILIES, TOKEN, config_of

Capture = pytest.CaptureFixture[str]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def config(tiny_pair: Path, tmp_path: Path) -> str:
    path = tmp_path / "ecdiff.yaml"
    config_of(tiny_pair, FAMILIES["tiny_pair"]).save(path)
    return str(path)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return str(tmp_path / "token")


def generate(config: str, out: Path, *arguments: str) -> int:
    given = ("--prompt", "a small red ring", "--seed", "3", "--device", "cpu")
    return main(["generate", "--config", config, "--out", str(out), *given, *arguments])


def image(folder: Path) -> Image.Image:
    with Image.open(folder / "00003.png") as found:
        found.load()
        return found


def test_generate_asks_the_cloud_and_says_so_in_the_image(
    config: str, token_file: str, url: str, tmp_path: Path, capsys: Capture
) -> None:
    assert generate(config, tmp_path / "here") == 0
    assert generate(config, tmp_path / "there", "--cloud", url, "--token-file", token_file) == 0
    here, there = image(tmp_path / "here"), image(tmp_path / "there")
    assert there.tobytes() == here.tobytes()
    assert there.text["ecdiff:cloud"] == url
    assert "ecdiff:cloud" not in here.text
    assert re.search(r"9 steps = 4 cloud \+ .* · \d+\.\d\d s\n$", capsys.readouterr().out)


def test_without_the_cloud_the_edge_goes_on_alone_where_that_is_asked_for(
    config: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecdiff_core.serving.transport.time.sleep", lambda _: None)
    assert generate(config, tmp_path / "none", "--cloud", NOWHERE) == 2
    assert f"error: The cloud at {NOWHERE} cannot be had after 4 attempts" in capsys.readouterr().err
    assert generate(config, tmp_path / "edge", "--mode", "edge") == 0
    assert generate(config, tmp_path / "fallback", "--cloud", NOWHERE, "--fallback", "edge") == 0
    out, err = capsys.readouterr()
    assert "Connection refused. The edge's model does all steps." in err
    assert "9 steps = 0 cloud + 0 approximated + 9 edge" in out.splitlines()[-1]
    alone = image(tmp_path / "fallback")
    assert alone.tobytes() == image(tmp_path / "edge").tobytes()
    assert (alone.text["ecdiff:cloud"], alone.text["ecdiff:mode"]) == ("fallback to the edge", "edge")


def test_link_prints_both_with_their_spread(url: str, token_file: str, capsys: Capture) -> None:
    assert main(["link", url, "--token-file", token_file, "--repeats", "2", "--size-mib", "0.1"]) == 0
    spread = r"\d+\.\d\d \w+ \(\d+\.\d\d … \d+\.\d\d\)\n"
    assert re.fullmatch(f"round trip {spread}bandwidth {spread}", capsys.readouterr().out)


def test_a_servers_batch_size_is_found_once_for_a_config_and_a_device(
    config: str, tiny_pipe: ECDiffPipeline, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def timed(_: object, size: int) -> float:
        tried.append(size)
        return float(min(size, 4))

    monkeypatch.setattr(batch_size, "_timed", timed)
    assert _fastest_size(tiny_pipe, Path(config)) == 4
    assert tried == [1, 2, 4, 8, 16]
    assert _fastest_size(tiny_pipe, Path(config)) == 4
    assert tried == [1, 2, 4, 8, 16]
    assert "batch_size=auto: 4, as found before" in capsys.readouterr().err
    monkeypatch.setattr("ecdiff_core.models.devices.device_name", lambda _: "another device")
    assert _fastest_size(tiny_pipe, Path(config)) == 4
    assert _fastest_size(tiny_pipe, Path("shapes")) == 4
    assert tried == [1, 2, 4, 8, 16] * 3
    file = Path(config).with_suffix(".batch_size.json")
    assert json.loads(file.read_text())["device"] == "another device"

    file.unlink()
    monkeypatch.setattr("ecdiff_core.serving.commands.os.access", lambda *_: False)
    assert _fastest_size(tiny_pipe, Path(config)) == 4
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--config", "CONFIG", "--host", "0.0.0.0"], "Expected a token to listen on 0.0.0.0"),
        (["serve", "--config", "CONFIG", "--queue", "0"], "Expected queue >= 1, got 0"),
        (["serve", "--config", "CONFIG", "--batch-size", "0"], "Expected batch_size >= 1, got 0"),
        (["serve", "--config", "CONFIG", "--port", "99999"], "Expected --port within 0 … 65535"),
        (["link", "http://127.0.0.1:9", "--repeats", "0"], "Expected --repeats >= 1"),
        (
            ["generate", "--config", "CONFIG", "--prompt", "a", "--deadline", "1"],
            "--deadline goes with --cloud",
        ),
        (
            ["generate", "--config", "CONFIG", "--prompt", "a", "--cloud", "http://gpu", "--deadline", "inf"],
            "Expected --deadline > 0 seconds, and finite, got inf",
        ),
        (["generate", "--config", "CONFIG", "--prompt", "a", "--cloud", "gpu:1"], "begin with http:// or"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    config: str, arguments: list[str], message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECDIFF_TOKEN", raising=False)
    assert main([config if one == "CONFIG" else one for one in arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = dict.fromkeys(("both", "cloud", "edge"), pytest.fail)
    monkeypatch.setattr("ecdiff_core.pipeline._LOADERS", loaders)


@pytest.mark.usefixtures("nothing_loads")
def test_a_server_looks_at_its_address_and_config_before_it_loads(
    config: str, token_file: str, tmp_path: Path, capsys: Capture
) -> None:
    def fails(*arguments: str) -> str:
        assert main(["serve", "--config", *arguments]) == 2
        return capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}: Address already in use. Give another --port" in fails(
            config, "--port", port
        )
    for host in ("203.0.113.7", "x" * 99):
        line = fails(config, "--host", host, "--token-file", token_file)
        assert f"Cannot listen on {host}:8000: " in line
        assert "Give an address of this machine" in line
    tuned = replace(TunedConfig.load(config), method=MethodChoice("taylorseer"))
    tuned.save(tmp_path / "method.yaml")
    assert "A server does not run the method taylorseer" in fails(str(tmp_path / "method.yaml"))


def test_an_address_is_held_from_before_the_models_load(tiny_pipe: ECDiffPipeline) -> None:
    """Of two that hold it the second to listen fails; a name may have addresses that this machine lacks."""
    with bound(Listen("localhost", 0)) as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(sockets[0].getsockname()[:2])
        sockets[0].listen()
        with refused(ParamsError, key="--port", got={"host": "localhost", "port": port}):
            bound(Listen("localhost", port)).__enter__()
    with bound(Listen(port=0)) as (one,):
        listen = Listen(port=one.getsockname()[1])
        with bound(listen) as other:
            one.listen()
            with refused(ParamsError, key="--port"):
                make_server(tiny_pipe, listen, Limits()).run(other)


def test_a_server_is_told_to_end_once_and_drops_its_work_at_the_second_ctrl_c(
    tiny_pipe: ECDiffPipeline,
) -> None:
    ends: list[int] = []
    server = make_server(tiny_pipe, Listen(port=0), Limits(), on_stop=lambda: ends.append(1))
    server.handle_exit(signal.SIGINT, None)
    assert (ends, server.should_exit, server.force_exit) == ([1], True, False)
    server.handle_exit(signal.SIGINT, None)
    assert (ends, server.should_exit, server.force_exit) == ([1], True, True)


@pytest.mark.usefixtures("nothing_loads")
def test_what_writes_videos_is_looked_for_before_anything_is_loaded(
    tiny_videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecdiff_core.io.video.find_spec", lambda _: None)
    config_of(tiny_videos, FAMILIES["tiny_videos"]).save(tmp_path / "video.yaml")
    assert generate(str(tmp_path / "video.yaml"), tmp_path) == 2
    assert "Videos cannot be written without imageio and imageio_ffmpeg." in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_loads")
def test_generate_asks_the_server_before_it_loads(
    config: str, url: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecdiff_core.serving.transport.time.sleep", lambda _: None)
    (tmp_path / "other").write_text("another-token-altogether")
    for given, line in (
        ((url, "--token-file", f"{tmp_path}/other", "--fallback", "edge"), "refuses (401)"),
        ((NOWHERE,), "cannot be had"),
    ):
        assert generate(config, tmp_path, "--cloud", *given) == 2
        assert line in capsys.readouterr().err


def test_what_options_alone_tell_needs_no_torch(config: str) -> None:
    """Which takes seconds to import; so does measuring a link."""
    commands = [
        ["serve", "--config", config, "--host", "0.0.0.0"],
        ["generate", "--config", config, "--prompt", "a", "--cloud", "gpu:8000"],
        ["generate", "--config", config, "--prompt", "a", "--seed", "-1"],
        ["link", NOWHERE],
    ]
    code = (
        "import sys, time; from ecdiff_core.__main__ import main; time.sleep = lambda _: None\n"
        f"print([main(one) for one in {commands}], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 2, 2, 2] False\n"
    assert done.stderr.count("\n") == 4


def test_help_tells_the_limits_that_there_are(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("batch_size", "queue", "sessions", "prompt_chars", "drain_seconds"):
        option = shown.split(f" --{name.replace('_', '-')} N ")[-1].split(" --")[0]
        assert f"(default {getattr(Limits(), name)}" in option
    assert get_args(Encoding) == PACKETS
    with pytest.raises(SystemExit):
        main(["serve", "--config", "shapes", "--batch-size", "many"])
    assert "expected a whole number or auto, got 'many'" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(
    config: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ecdiff_core.serving.server", "ecdiff_core.serving.client", "ecdiff_core.serving.transport"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for package in ("uvicorn", "httpx2"):
        monkeypatch.setitem(sys.modules, package, None)
    for arguments, package in (
        (["serve", "--config", config], "uvicorn"),
        (["generate", "--config", config, "--prompt", "a", "--cloud", NOWHERE], "httpx2"),
    ):
        assert main(arguments) == 2
        line = f'error: The package {package} is missing: install the extra, pip install "ecdiff[serve]".'
        assert line in capsys.readouterr().err
