"""
Who may read the metrics: by network, by bearer token, by user and password. A token or a password is enough.

1. Secrets are compared in constant time.
2. No secret, right or wrong, is logged or answered.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.responses import plain
from wsgi_prom.exporter.users import BusyError
from wsgi_prom.exporter.watched import Watched

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from webob import Request, Response

    from wsgi_prom.exporter.users import Users
    from wsgi_prom.exporter.watched import Files
    from wsgi_prom.exporter.web_config import WebConfig
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

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
            ip = parse_ip(address)
        except ValueError:
            return False  # a unix socket: the application's server does not say who is behind it
        return any(ip in network for network in self._networks)

    def refusal(self, request: Request) -> Response | None:
        """Return the response to a *request* without the right credentials, None for one that has them."""
        web = self.web
        users = web.users if web else None
        if self._token is None and users is None:
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            if self._allows(scheme.lower(), given.strip().encode("latin-1"), users):
                return None
        except BusyError:
            retry = ("Retry-After", "1")
            return plain(429, "Other passwords are being checked. Try again in a second.\n", retry)
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
            # bcrypt's C code ends a password at a NUL.
            return b"\0" not in password and users.allow(name, password)
        return False

    def log_who_can_read(self, host: str, port: int) -> None:
        """Log in one line who can read the metrics at *host*, an address of this machine, if other machines can."""
        ip = parse_ip(host)
        if ip.is_loopback:
            return
        whom = ", ".join(map(str, self._networks)) or "every network that reaches it"
        web = self.web
        protections = ["WSGI_PROM_TOKEN_FILE"] * bool(self._token) + (web.protections if web else [])
        if protections:
            missing = (
                "" if web and web.tls else "; unencrypted, set tls_server_config in WSGI_PROM_WEB_CONFIG"
            )
            log.info("%s is open to %s, protected by %s%s", host, whom, " and ".join(protections), missing)
        elif self._networks:
            log.info("%s is open to %s, by WSGI_PROM_ALLOW, without a password", host, whom)
        else:
            log.warning(
                "%s is open to %s: every client that connects can read the metrics. Set WSGI_PROM_TOKEN_FILE, or "
                "WSGI_PROM_WEB_CONFIG with TLS and users; or WSGI_PROM_ALLOW; or WSGI_PROM_BIND=127.0.0.1:%d",
                host, whom, port,
            )  # fmt: skip


def parse_ip(address: str) -> IPv4Address | IPv6Address:
    """Parse *address*, without its zone, and as IPv4 if it is an IPv4 address mapped to IPv6. Raises ValueError."""
    ip = ip_address(address.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def _token(files: Files, path: str) -> bytes:
    token = files.read("WSGI_PROM_TOKEN_FILE", path, private=True).strip()
    if not token or len(token.split()) > 1:
        raise SettingError(
            f"WSGI_PROM_TOKEN_FILE={path!r} does not hold one token. Fill it with: openssl rand -hex 32"
        )
    return token


def _watch_web_config(path: str) -> Watched[WebConfig]:
    try:
        # Imported here: it needs PyYAML and bcrypt, which are an extra.
        web_config: Any = import_module("wsgi_prom.exporter.web_config")
    except ImportError as error:
        raise SettingError(
            f"WSGI_PROM_WEB_CONFIG={path!r} needs {error.name}, which is not installed. Run pip install 'wsgi-prom[web]'"
        ) from error
    return Watched(lambda files: web_config.load(files, path))
