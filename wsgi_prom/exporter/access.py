"""
Who may read the metrics: by network, by bearer token, by user and password. A token or a password is enough.

1. Secrets are compared in constant time.
2. No secret, right or wrong, is logged or answered.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.responses import plain
from wsgi_prom.exporter.users import BusyError
from wsgi_prom.exporter.watched import Watched

if TYPE_CHECKING:
    from webob import Request, Response

    from wsgi_prom.exporter.users import Users
    from wsgi_prom.exporter.watched import Files
    from wsgi_prom.exporter.web_config import WebConfig
    from wsgi_prom.settings import Settings

_REALM: Final = 'realm="wsgi_prom"'


class Access:
    """
    The rules of *settings*; without any, every client may read the metrics. Changed files take effect at once.

    Raises SettingError if a file cannot be used, or if it needs a package that is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.allow
        token_file, web_config = settings.token_file, settings.web_config
        self._token = Watched(lambda files: _token(files, token_file)) if token_file else None
        self._web = _watch_web_config(web_config) if web_config else None

    @property
    def web(self) -> WebConfig | None:
        """The web configuration that is used now, None without one."""
        return None if self._web is None else self._web.value

    def admits(self, address: str) -> bool:
        """Tell whether a client of this *address* may connect."""
        if not self._networks:
            return True
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False  # a unix socket: the application's server does not say who is behind it
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._networks)

    def refusal(self, request: Request) -> Response | None:
        """Return the response to a *request* without the right credentials, None for one that has them."""
        users = self.web.users if self.web else None
        if self._token is None and users is None:
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            if self._allows(scheme.lower(), given.strip().encode("latin-1"), users):
                return None
        except BusyError:
            return plain(
                429, "Other passwords are being checked. Try again in a second.\n", ("Retry-After", "1")
            )
        schemes = [("WWW-Authenticate", f"Bearer {_REALM}")] if self._token else []
        schemes += [("WWW-Authenticate", f'Basic {_REALM}, charset="UTF-8"')] if users else []
        return plain(401, "A token or a password is needed.\n", *schemes)

    def _allows(self, scheme: str, given: bytes, users: Users | None) -> bool:
        if scheme == "bearer" and self._token is not None:
            return hmac.compare_digest(given, self._token.value)
        if scheme == "basic" and users is not None:
            try:
                name, _, password = base64.b64decode(given, validate=True).partition(b":")
            except binascii.Error:
                return False
            # For bcrypt in C a password ends before a NUL.
            return b"\0" not in password and users.allow(name, password)
        return False


def _token(files: Files, path: str) -> bytes:
    token = files.read("WSGI_PROM_TOKEN_FILE", path, private=True).strip()
    if not token or len(token.split()) > 1:
        raise SettingError(
            f"WSGI_PROM_TOKEN_FILE={path!r} does not hold one token. Fill it with: openssl rand -hex 32"
        )
    return token


def _watch_web_config(path: str) -> Watched[WebConfig]:
    try:
        from wsgi_prom.exporter import web_config  # noqa: PLC0415 - brings ssl, and PyYAML and bcrypt of an extra
    except ImportError as error:
        raise SettingError(
            f"WSGI_PROM_WEB_CONFIG={path!r} needs {error.name}, which is not installed. Run pip install 'wsgi-prom[web]'"
        ) from error
    return Watched(lambda files: web_config.load(files, path))
