"""Ask an exporter for its view, over HTTP: what `wsgi-prom top --url` shows."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.exporter.watched import Watched
from wsgi_prom.live.view import View, ViewError

if TYPE_CHECKING:
    from wsgi_prom.push.endpoint import Login

_SECONDS: Final = 10.0
# A view of a thousand routes has 400 kB.
_MOST_BYTES: Final = 64 * 1024 * 1024


class AnswerError(WsgiPromError):
    """The exporter does not answer, or not with a view."""


class UrlViews:
    """The views of the exporter at *url*. For one thread. Raises SettingError for what cannot be used."""

    def __init__(self, url: str, login: Login) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if "@" in parts.netloc:
            raise SettingError(
                "--url has a login in it, which other users of this machine can read. Give --user and --password-file."
            )
        try:
            self._port = parts.port
        except ValueError:
            self._port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or self._port == -1:
            raise SettingError(f"--url={url!r} is no URL. Give http://HOST:PORT or https://HOST:PORT.")
        self._host = parts.hostname
        self._shown = f"{parts.scheme}://{parts.netloc}"
        # Whoever copies the URL of the metrics or of the page gets the same.
        path = parts.path.rstrip("/").removesuffix("/metrics").removesuffix("/live")
        self._path = f"{path}/live"
        self._login = Watched(login.headers)
        self._tls = login.tls() if parts.scheme == "https" else None

    def look(self) -> View:
        """Return the view of now. Raises AnswerError."""
        try:
            status, body = self._ask()
        except (OSError, http.client.HTTPException) as error:
            raise AnswerError(
                f"{self._shown} does not answer: {getattr(error, 'strerror', None) or error or type(error).__name__}."
            ) from error
        if status != 200:
            raise AnswerError(
                f"{self._shown}{self._path} answers {status}: {body[:200].decode(errors='replace').strip()}"
            )
        try:
            return View.of_json(json.loads(body))
        except (ViewError, ValueError, RecursionError) as error:
            raise AnswerError(
                f"{self._shown}{self._path} is not a page of this version of wsgi_prom: {error}."
            ) from error

    def _ask(self) -> tuple[int, bytes]:
        # Not urllib.request, which would send the login to the proxy that the environment names.
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_SECONDS, context=self._tls
            )
        try:
            headers = {"Accept": "application/json", "Connection": "close", **self._login.value}
            connection.request("GET", self._path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)
        finally:
            connection.close()
