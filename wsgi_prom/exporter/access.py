"""
Who may read the metrics: by network, by bearer token, by user and password. Either of the two secrets is enough.
"""

# Rule 1: secrets are compared in constant time, and an unknown user costs what a known one does.
# Rule 2: one password is hashed at a time, and no client that was let in before waits for that.
# Rule 3: no secret, right or wrong, is logged or answered.

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
import threading
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter import passwords
from wsgi_prom.exporter.responses import plain
from wsgi_prom.exporter.watched import Watched, read

if TYPE_CHECKING:
    from webob import Request, Response

    from wsgi_prom.exporter.passwords import Hashed
    from wsgi_prom.settings import Settings

_REALM: Final = 'realm="wsgi_prom"'
# One password is hashed, and one more waits for that: two of the server's four threads.
_AT_A_TIME: Final = 2


class BusyError(Exception):
    """Other passwords are being looked at."""


class Access:
    """
    The rules that *settings* ask for; without any, everybody is let in.

    Raises SettingError if a file cannot be used. A file that is replaced counts at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.allow
        token_file, users_file = settings.token_file, settings.users_file
        self._token = Watched(lambda: _token(str(token_file)), token_file) if token_file else None
        self._users = Watched(lambda: Users(str(users_file)), users_file) if users_file else None

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
        """Return the answer to a *request* without the right credentials, None for one that has them."""
        if self._token is None and self._users is None:
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            if self._allows(scheme.lower(), given.strip().encode("latin-1")):
                return None
        except BusyError:
            return plain(
                429, "Other passwords are being checked. Come again in a second.\n", ("Retry-After", "1")
            )
        schemes = [("WWW-Authenticate", f"Bearer {_REALM}")] if self._token else []
        schemes += [("WWW-Authenticate", f'Basic {_REALM}, charset="UTF-8"')] if self._users else []
        return plain(401, "A token or a password is needed.\n", *schemes)

    def _allows(self, scheme: str, given: bytes) -> bool:
        if scheme == "bearer" and self._token is not None:
            return hmac.compare_digest(given, self._token.value)
        if scheme == "basic" and self._users is not None:
            try:
                name, _, password = base64.b64decode(given, validate=True).partition(b":")
            except binascii.Error:
                return False
            # scrypt pads with zeros: it takes "right" and one more of them for the same.
            return b"\0" not in password and self._users.value.allow(name, password)
        return False


class Users:
    """The users of a file. Raises SettingError if a line of it is not one."""

    def __init__(self, path: str) -> None:
        self._users: dict[bytes, Hashed] = {}
        for number, line in enumerate(read("WSGI_PROM_USERS_FILE", path).split(b"\n"), 1):
            text = line.strip()
            if not text or text.startswith(b"#"):
                continue
            # The line is not shown: it may hold a password by mistake.
            where = f"WSGI_PROM_USERS_FILE={path!r}, line {number}"
            try:
                name, hashed = passwords.parse(text.decode())
            except ValueError:
                raise SettingError(
                    f"{where} is not NAME:$scrypt$... Make it with: wsgi-prom password NAME"
                ) from None
            if any(hashed.cost != other.cost for other in self._users.values()):
                # Else the time that a refusal takes would tell who is in the file.
                raise SettingError(
                    f"{where} has another cost than those before. Make all with the same ln, r and p."
                )
            self._users[name.encode()] = hashed
        if not self._users:
            raise SettingError(
                f"WSGI_PROM_USERS_FILE={path!r} has no user. Add a line with: wsgi-prom password NAME"
            )
        self._decoy = next(iter(self._users.values())).decoy()
        # The passwords that were right, as an HMAC under a key that is nowhere else: to hash each time would make a
        # scrape cost 40 ms.
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, bytes] = {}
        self._hashing = threading.Lock()
        self._turns = threading.Semaphore(_AT_A_TIME)

    def allow(self, name: bytes, password: bytes) -> bool:
        """Tell whether *password* is that of user *name*. Raises BusyError."""
        mark = hmac.digest(self._key, name + b":" + password, "sha256")
        if hmac.compare_digest(self._right.get(name, b""), mark):
            return True
        if not self._turns.acquire(blocking=False):
            raise BusyError
        try:
            with self._hashing:
                if hmac.compare_digest(self._right.get(name, b""), mark):
                    return True
                allowed = self._users.get(name, self._decoy).matches(password) and name in self._users
                if allowed:
                    self._right[name] = mark
                return allowed
        finally:
            self._turns.release()


def _token(path: str) -> bytes:
    token = read("WSGI_PROM_TOKEN_FILE", path).strip()
    if not token or len(token.split()) > 1:
        raise SettingError(
            f"WSGI_PROM_TOKEN_FILE={path!r} does not hold one token. Fill it with: openssl rand -hex 32"
        )
    return token
