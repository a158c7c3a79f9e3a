"""https with a certificate of one's own: trusted where it is named, and else refused at once."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ecdiff_core import ECDiffPipeline, RemoteCloud
from ecdiff_core.__main__ import main
from ecdiff_core.errors import CloudError, CloudUnavailableError, ParamsError
from ecdiff_core.serving.listen import Listen
from ecdiff_core.serving.transport import Retry

from ...refusals import refused
from .conftest import TOKEN, serving

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cert.pem`` for 127.0.0.1, ``key.pem``, and the key with a password: ``locked.pem``."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("pem")
    names = ("-subj", "/CN=ecdiff", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    made = ("-keyout", "key.pem", "-out", "cert.pem")
    for command in (
        ("openssl", "req", "-x509", *CURVE, *names, *made),
        ("openssl", "ec", "-in", "key.pem", "-aes256", "-passout", "pass:word", "-out", "locked.pem"),
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def test_a_certificate_is_trusted_where_it_is_named(
    pem: Path, tiny_pipe: ECDiffPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    listen = Listen(port=0, token=TOKEN, certfile=pem / "cert.pem", keyfile=pem / "key.pem")
    with serving(tiny_pipe, listen=listen) as url:
        assert url.startswith("https://")
        assert RemoteCloud(url, TOKEN, verify=pem / "cert.pem").config().facts["alpha"] == "0.3"
        assert RemoteCloud(url, TOKEN, verify=False).config().facts["alpha"] == "0.3"

        began = time.monotonic()
        with refused(CloudError, key=url, got=re.compile("^self.signed certificate"), line="--cacert PEM"):
            RemoteCloud(url, TOKEN, retry=Retry(attempts=4, seconds=9)).config()
        assert time.monotonic() - began < 5  # another attempt would change nothing

        asked = ["link", url, "--token-file", str(tmp_path / "token"), "--repeats", "1", "--size-mib", "0.01"]
        assert main([*asked, "--cacert", str(pem / "cert.pem")]) == 0
        assert main(asked) == 2
        assert "error: The certificate of https://127.0.0.1" in capsys.readouterr().err

        plain = RemoteCloud(url.replace("https", "http"), TOKEN, retry=Retry(attempts=2, seconds=0.01))
        with refused(CloudUnavailableError, key=plain.url):
            plain.config()


def test_certificates_that_cannot_be_used_are_refused_before_models_are_loaded(
    pem: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("no certificate\n")
    with refused(ParamsError, key="--ssl-keyfile", got=pem / "key.pem"):
        Listen(keyfile=pem / "key.pem")
    for certfile, keyfile in (
        (tmp_path / "no.pem", pem / "key.pem"),
        (pem / "cert.pem", tmp_path / "no.pem"),
        (pem / "cert.pem", pem / "locked.pem"),  # nor is a password asked for
        (pem / "cert.pem", None),
    ):
        got = {"certificate": str(certfile), "key": str(keyfile or certfile)}
        with refused(ParamsError, key="--ssl-certfile", got=got):
            Listen(certfile=certfile, keyfile=keyfile)
    for path, reason in (
        (tmp_path / "no.pem", "it holds no certificate"),
        (tmp_path / "none", "No such file"),
    ):
        with refused(ParamsError, key="--cacert", got=path, line=reason):
            RemoteCloud("https://127.0.0.1:9", verify=path)


@pytest.mark.parametrize("url", ["http://gpu:port", "http://[::1", "https://gpu:99999999"])
def test_urls_that_are_none_are_one_line(url: str) -> None:
    with refused(ParamsError, key="the cloud's URL", got=url):
        RemoteCloud(url)
