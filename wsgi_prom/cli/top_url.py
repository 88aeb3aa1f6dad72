"""Ask an exporter for its view, over HTTP: what `wsgi-prom top --url` shows."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.live.view import View, ViewError

_SECONDS: Final = 10.0
# A view of a thousand routes has 400 kB.
_MOST_BYTES: Final = 64 * 1024 * 1024


class AnswerError(WsgiPromError):
    """The exporter does not answer, or not with a view."""


class UrlViews:
    """The views of the exporter at *url*. For one thread. Raises SettingError for what cannot be used."""

    def __init__(self, url: str, token_file: str = "", ca_file: str = "") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            self._port = parts.port
        except ValueError:
            self._port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or self._port == -1:
            raise SettingError(
                f"--url={_without_login(url)!r} is no URL. Give http://HOST:PORT or https://HOST:PORT."
            )
        self._host = parts.hostname
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        # Whoever copies the URL of the metrics or of the page gets the same.
        path = parts.path.rstrip("/").removesuffix("/metrics").removesuffix("/live")
        self._path = f"{path}/live"
        self._headers = {"Accept": "application/json", "Connection": "close"}
        if token_file:
            self._headers["Authorization"] = f"Bearer {_read(token_file)}"
        elif parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._tls = _context(ca_file) if parts.scheme == "https" else None

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
        except (ViewError, ValueError) as error:
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
            connection.request("GET", self._path, headers=self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)
        finally:
            connection.close()


def _without_login(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"{before.partition('//')[0]}//...@{after}" if at else url


def _read(path: str) -> str:
    try:
        words = Path(path).read_text(encoding="ascii").split()
    except (OSError, ValueError) as error:
        raise SettingError(
            f"--token-file={path!r} cannot be read: {getattr(error, 'strerror', error)}."
        ) from error
    if len(words) != 1:
        raise SettingError(f"--token-file={path!r} does not hold one token.")
    return words[0]


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise SettingError(f"--ca-file={ca_file!r} cannot be used: {error.strerror or error}.") from error
