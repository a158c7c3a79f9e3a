"""Asking a server over HTTP: what is tried again, for how long, and how much of an answer is taken."""

from __future__ import annotations

import json
import secrets
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from ecdiff_core.errors import CloudError, CloudUnavailableError, ParamsError
from ecdiff_core.io.text import visible
from ecdiff_core.serving.link_meter import LinkMeter

_AGAIN = (429, 503)
"""Answers of a server after which it is worth trying again."""
_PROBLEM = "application/problem+json"
_ADVICE = {401: "Give --token-file FILE or set ECDIFF_TOKEN (in Python token=…)."}
"""What to do of an answer, by its status."""
_MOST_BYTES = 2**20
"""Of an answer whose length nothing else bounds."""


@dataclass(frozen=True)
class Retry:
    """How long to go on trying.

    Args:
        attempts: in all, the first one included.
        seconds: before the second at most; each later pause is up to twice as long. All are drawn at random,
            from half of that on, and none is shorter than the server asks for.
        timeout: seconds without a byte, after which a connection counts as lost.
        connect_timeout: the same of making one.
        answer_timeout: seconds for all of an answer from its first byte on.
    """

    attempts: int = 4
    seconds: float = 0.25
    timeout: float = 60.0
    connect_timeout: float = 5.0
    answer_timeout: float = 600.0


class RefusedError(CloudError):
    """An answer that is an error, and would be one again; ``got`` is its status."""


@dataclass(frozen=True)
class Answer:
    """What a server sent."""

    content: bytes
    headers: httpx2.Headers


class Transport:
    """Connections to one server.

    Args:
        url: that begins with http:// or https://.
        token: the server's; None where it has none.
        retry: on 429, 503 and lost connections, on nothing else.
        verify: False accepts any certificate; a path is that of a PEM file with a certificate to trust.

    Raises:
        ParamsError: the URL is none, or the PEM file cannot be used.
    """

    def __init__(self, url: str, token: str | None, retry: Retry, verify: bool | str | Path) -> None:
        check_url(url)
        self.url, self._retry, self.link = url.rstrip("/"), retry, LinkMeter()
        # Nothing is unpacked here, so that no answer is larger than what came over the link.
        headers = {"Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        timeout = httpx2.Timeout(retry.timeout, connect=retry.connect_timeout)
        context = verify if isinstance(verify, bool) else _trusting(Path(verify))
        if not self.url.startswith("https:"):
            context = False  # no certificate to verify: reading those of the system takes 30 ms
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, verify=context)
        self.close = self._http.close

    def ask(self, method: str, path: str, most_bytes: int = _MOST_BYTES, **given: Any) -> Answer:
        """One request, tried again where that may help; a POST brings an Idempotency-Key for that.

        Raises:
            RefusedError: the answer is an error.
            CloudError: it is longer than ``most_bytes``, or the server's certificate is not trusted.
            CloudUnavailableError: none came, or the server cannot keep the deadline.
        """
        asked_for, why = 0.0, ""
        for attempt in range(self._retry.attempts):
            if attempt:
                pause = self._retry.seconds * 2 ** (attempt - 1)
                time.sleep(max(pause * (0.5 + secrets.randbelow(1000) / 2000), asked_for))
                asked_for = 0.0
            try:
                with self._http.stream(method, path, **given) as response:
                    answer = Answer(self._content(response, most_bytes), response.headers)
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                self._check_tls(error)
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                continue
            if response.is_success:
                return answer
            why = visible(_detail(answer.content) or response.reason_phrase)
            if not _may_change(response):
                line = f"The cloud at {self.url} refuses ({response.status_code}): {why}"
                raise RefusedError(
                    line, key=self.url, got=response.status_code, advice=_ADVICE.get(response.status_code, "")
                )
            if _is_late(answer.content):
                line = f"The cloud at {self.url} cannot keep the deadline: {why}"
                raise CloudUnavailableError(line, key=self.url, got=why)
            asked_for = _retry_after(response)
        line = f"The cloud at {self.url} cannot be had after {self._retry.attempts} attempts: {why}"
        raise CloudUnavailableError(line, key=self.url, got=why)

    def _content(self, response: httpx2.Response, most_bytes: int) -> bytes:
        """All of an answer's body."""
        began, content = time.perf_counter(), bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > most_bytes:
                line = (
                    f"The answer of {self.url} is longer than the {most_bytes} bytes that it may have: it is "
                    "no server of ecdiff serve, or one of another version."
                )
                raise CloudError(line, key=self.url, expected=f"at most {most_bytes} bytes")
            if time.perf_counter() - began > self._retry.answer_timeout:
                raise httpx2.ReadTimeout(f"no whole answer within {self._retry.answer_timeout:g} s")
        if response.is_success:
            self.link.transfer(len(content), time.perf_counter() - began)
        return bytes(content)

    def _check_tls(self, error: BaseException) -> None:
        """Raise CloudError where a connection failed for what another attempt does not change."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise CloudError(
                    f"The certificate of {self.url} is not trusted: {cause.verify_message}. Check the URL "
                    "and this machine's clock; --cacert PEM (verify=PEM) trusts a certificate of your own.",
                    key=self.url,
                    got=cause.verify_message,
                ) from error
            if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
                line, plain = (
                    f"What listens at {self.url} speaks no TLS.",
                    self.url.replace("https", "http", 1),
                )
                raise CloudError(
                    line,
                    key=self.url,
                    expected=plain,
                    advice=f"Give {plain}, or a server with a certificate.",
                ) from error
            cause = cause.__cause__ or cause.__context__


def check_url(url: str) -> None:
    """Refuse what is no server's URL.

    Raises:
        ParamsError: with what is expected of it.
    """
    if not url.startswith(("http://", "https://")):
        raise ParamsError(key="the cloud's URL", got=url, expected="to begin with http:// or https://")
    try:
        port = httpx2.URL(url).port
    except httpx2.InvalidURL as error:
        raise ParamsError(key="the cloud's URL", got=url, expected=f"to be one ({error})") from error
    if port is not None and port >= 2**16:
        raise ParamsError(key="the cloud's URL", got=url, expected="with a port up to 65535")


def _trusting(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl's own are among them
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        line = f"Cannot use the certificate {path}: {reason}. Expected a PEM file."
        raise ParamsError(line, key="--cacert", got=str(path)) from error


def _may_change(response: httpx2.Response) -> bool:
    """Whether another attempt may help; what a balancer says of a dead server is a lost connection."""
    ours = response.headers.get("content-type", "").startswith(_PROBLEM)
    return response.status_code in _AGAIN or (response.status_code >= 500 and not ours)


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), 30.0) if text.isdecimal() else 0.0


def _problem(content: bytes) -> dict[str, Any]:
    """What a server says of an error; empty where it says nothing."""
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return {}


def _detail(content: bytes) -> str:
    """In a line; empty where it is none."""
    return " ".join(str(_problem(content).get("detail", "")).split())[:500]


def _is_late(content: bytes) -> bool:
    """Whether a deadline cannot be met, which waiting makes no better."""
    return "estimate_seconds" in _problem(content)
