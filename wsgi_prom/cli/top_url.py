"""Ask an exporter for its view, over HTTP: what `wsgi-prom top --url` shows."""

from __future__ import annotations

import http.client
import json
import socket
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.exporter.watched import Files, Watched
from wsgi_prom.http_peers import Answer
from wsgi_prom.live.view import View, ViewError
from wsgi_prom.push.login import is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from wsgi_prom.push.login import Login

# For a whole answer.
_SECONDS: Final = 10.0


class AnswerError(WsgiPromError):
    """The exporter does not answer, or not with a view."""


class UrlViews:
    """
    The views of the exporter at *url*, or at `unix:/PATH`. For one thread at a time. Raises SettingError for what cannot be
    used.
    """

    def __init__(self, url: str, login: Login) -> None:
        if login.cert_file and not url.startswith("https:"):
            raise SettingError("--cert-file and --key-file are of TLS. Give an --url with https://.")
        self._login = Watched(login.headers)
        self._path = "/live"
        self._no_certificate = False
        if url.startswith("unix:/"):
            self._shown = self._page = url
            self._connection: Callable[[], http.client.HTTPConnection] = partial(
                _UnixConnection, url.removeprefix("unix:")
            )
            return
        parts, port = _parsed(url)
        self._shown = f"{parts.scheme}://{parts.netloc}"
        # Whoever copies the URL of the metrics or of the page gets the same.
        self._path = parts.path.rstrip("/").removesuffix("/metrics").removesuffix("/live") + self._path
        self._page = f"{self._shown}{self._path}"
        host = parts.hostname or ""
        self._connection = partial(http.client.HTTPConnection, host, port)
        if parts.scheme == "https":
            context = login.tls(Files())
            self._connection = partial(http.client.HTTPSConnection, host, port, context=context)
            self._no_certificate = not login.cert_file

    def look(self) -> View:
        """Return the view of now. Raises AnswerError."""
        try:
            status, body = self._ask()
        except (OSError, http.client.HTTPException) as error:
            told = f"{self._shown} does not answer: {getattr(error, 'strerror', None) or error or type(error).__name__}."
            if self._no_certificate and is_refusal(error):
                told += " If it wants a client certificate, give --cert-file and --key-file."
            raise AnswerError(told) from error
        if status != 200:
            raise AnswerError(f"{self._page} answers {status}: {body[:200].decode(errors='replace').strip()}")
        try:
            return View.of_json(json.loads(body))
        except (ViewError, ValueError, RecursionError) as error:
            raise AnswerError(f"{self._page} is not a page of this version of wsgi_prom: {error}.") from error

    def _ask(self) -> tuple[int, bytes]:
        # Not urllib.request, which would send the login to the proxy that the environment names.
        connection = self._connection()
        connection.timeout, connection.response_class = _SECONDS, Answer
        try:
            headers = {"Accept": "application/json", "Connection": "close", **self._login.value}
            connection.request("GET", self._path, headers=headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _parsed(url: str) -> tuple[SplitResult, int | None]:
    """Return the parts of *url*, and its port. Raises SettingError."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if "@" in parts.netloc:
        raise SettingError(
            "--url has a login in it, which other users of this machine can read. Give --user and --password-file."
        )
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise SettingError(
            f"--url={url!r} is no URL. Give http://HOST:PORT, https://HOST:PORT or unix:/PATH."
        )
    return parts, port
