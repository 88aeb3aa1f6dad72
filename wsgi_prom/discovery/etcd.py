"""
etcd over HTTP, by etcd3gw: a connection to the member that answers, and its errors in one line.

1. Each request has a time limit, for all of its answer. A member that does not answer is left for the next one.
2. No message holds the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.exporter.watched import Files, Watched
from wsgi_prom.http_peers import is_loopback, pool_classes
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from wsgi_prom.setting_values import Address, Registry
    from wsgi_prom.settings import Settings

# A member that lives answers in milliseconds, but for an election, which takes a second or two.
REQUEST_SECONDS: Final = 5.0
_NAME_A_USER: Final = (
    "Name one, etcd://USER@HOST:PORT/PREFIX, and the file of the password by WSGI_PROM_ETCD_PASSWORD_FILE"
)
_CERTIFICATE: Final = (
    "Set WSGI_PROM_ETCD_CERT_FILE and WSGI_PROM_ETCD_KEY_FILE to one that its authority has signed"
)
# A part of an error's text, what is wrong then, and the remedy: tried on etcd 3.4.
_WRONG: Final = (
    (
        "authentication failed",
        "etcd{at} refuses the login of {user!r}",
        "Correct the user, or the password in WSGI_PROM_ETCD_PASSWORD_FILE",
    ),
    (
        "authentication is not enabled",
        "etcd{at} has no users, and the setting names one",
        "Remove the user, and WSGI_PROM_ETCD_PASSWORD_FILE",
    ),
    ("user name is empty", "etcd{at} wants a user", _NAME_A_USER),
    (
        "permission denied",
        "etcd{at} does not permit {user!r} to do it",
        "Grant read and write on the prefix {prefix}/",
    ),
    (
        "certificate verify failed",
        "the certificate of etcd{at} does not verify ({reason})",
        "Set WSGI_PROM_ETCD_CA_FILE to the certificates of its authority, and name a host that is in its certificate",
    ),
    ("ALERT_BAD_CERTIFICATE", "etcd{at} refuses the client certificate, or wants one", _CERTIFICATE),
    ("CERTIFICATE_REQUIRED", "etcd{at} wants a client certificate", _CERTIFICATE),
    ("[SSL:", "etcd{at} does not speak TLS as it should ({reason})", "{scheme}"),
    ("Remote end closed connection", "etcd{at} closes the connection", "{scheme}"),
    # So does a member that ends, and one that speaks TLS where it is not expected, or the other way round.
    ("Connection reset by peer", "etcd{at} resets the connection", "{scheme}"),
    (
        "404 page not found",
        "what answers{at} is not etcd's client port",
        "Name that port, which is 2379 by default",
    ),
)


class EtcdError(WsgiPromError):
    """etcd does not do what it was asked. *lasting*: before somebody changes a setting, here or of etcd."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


@dataclass(frozen=True)
class Etcd:
    """Where etcd is, by the setting or option *name*, and who this is to it. Make it with `of`."""

    registry: Registry
    name: str = "WSGI_PROM_SD"
    ca: str | None = None
    certificate: tuple[str, str] | None = None
    password: Watched[str] | None = None

    @classmethod
    def of(cls, registry: Registry, settings: Settings, name: str = "WSGI_PROM_SD") -> Etcd:
        """Return what *settings* say of *registry*. Raises SettingError for a missing package, and for files that cannot be used."""
        try:
            import_module("etcd3gw")
            import_module("tenacity")
        except ImportError as error:
            raise SettingError(
                f"{name}={str(registry)!r} needs {error.name}, which is not installed. Run pip install 'wsgi-prom[etcd]'"
            ) from error
        files = Files()
        certificate = None
        for kind in ("ca", "cert"):
            path = getattr(settings, f"etcd_{kind}_file")
            if path:
                files.read(f"WSGI_PROM_ETCD_{kind.upper()}_FILE", path)
        if settings.etcd_cert_file and settings.etcd_key_file:
            files.read("WSGI_PROM_ETCD_KEY_FILE", settings.etcd_key_file, private=True)
            certificate = settings.etcd_cert_file, settings.etcd_key_file
        password = None
        if registry.user and settings.etcd_password_file:
            password = Watched(partial(_password, settings.etcd_password_file))
            if not registry.tls and not all(is_loopback(member.host) for member in registry.members):
                warn_once(
                    f"{name}={str(registry)!r} gets the password without TLS: it can be read on the way. Write etcds:// if etcd has TLS"
                )
        return cls(registry, name, settings.etcd_ca_file, certificate, password)

    @property
    def where(self) -> str:
        """The setting or option and its value, for messages."""
        return f"{self.name}={str(self.registry)!r}"

    def connect(self) -> Any:
        """
        Return a client of the first member that answers, with a login if there is a user. Raises EtcdError.

        Its methods raise what `errors` lists. It is for one thread.
        """
        problems: list[EtcdError] = []
        for member in self.registry.members:
            try:
                return self._log_in(member)
            except errors() as error:
                problems.append(self.error(error, member))
        # A mistake that somebody has to mend is told before a failure that may pass.
        raise next((problem for problem in problems if problem.lasting), problems[-1])

    def check(self) -> None:
        """See whether a key below the prefix can be put there, and leave none. Raises EtcdError."""
        try:
            client = self.connect()
            lease = client.lease(ttl=2)
            client.put(f"{self.registry.path}/.check", "", lease)
            lease.revoke()
        except errors() as error:
            raise self.error(error) from error

    def error(self, error: Exception, member: Address | None = None) -> EtcdError:
        """Return what *error*, of the client, says."""
        if isinstance(error, EtcdError):
            return error
        where = f"{self.where}: "
        at = f" at {member}" if member and len(self.registry.members) > 1 else ""
        text = str(getattr(error, "detail_text", "") or error)
        told = self._lasting(error, text, at)
        if told is None:
            return EtcdError(f"{where}etcd{at} does not answer as it should: {_reason(text)}")
        return EtcdError(where + told, lasting=True)

    def _lasting(self, error: Exception, text: str, at: str) -> str | None:
        """Return what is wrong with a setting, and the remedy, if *error* of this *text* says so."""
        scheme = "If it speaks TLS, write etcds:// in place of etcd://"
        if self.registry.tls:
            scheme = "If it speaks no TLS, write etcd:// in place of etcds://"
        for part, wrong, remedy in _WRONG:
            if part in text:
                what = wrong.format(at=at, user=self.registry.user or "nobody", reason=_reason(text))
                return f"{what}. {remedy.format(prefix=self.registry.path, scheme=scheme)}"
        known = text.lstrip().startswith("<") or isinstance(
            error, ValueError | LookupError | TypeError | AttributeError
        )
        if known or type(error).__name__ == "ApiVersionDiscoveryFailedError":
            return f"what answers{at} is not etcd. Name etcd's client port, which is 2379 by default"
        return None

    def _log_in(self, member: Address) -> Any:
        import etcd3gw
        import requests

        scheme = "https" if self.registry.tls else "http"
        session = requests.Session()
        # No proxy, and no password of another service in ~/.netrc.
        session.trust_env = False
        session.max_redirects = 0
        if self.ca:
            session.verify = self.ca
        session.cert = self.certificate
        adapter = requests.adapters.HTTPAdapter()
        adapter.poolmanager.pool_classes_by_scheme = pool_classes()
        session.mount(f"{scheme}://", adapter)
        session.headers["Accept-Encoding"] = "identity"
        client = etcd3gw.client(
            host=member.host,
            port=member.port,
            protocol=scheme,
            timeout=REQUEST_SECONDS,
            session=session,
        )
        if self.registry.user:
            # Read again after a change, as somebody makes who replaces a password now and then.
            password = self.password.value if self.password is not None else ""
            login = {"name": self.registry.user, "password": password}
            session.headers["Authorization"] = client.post(client.get_url("/auth/authenticate"), json=login)[
                "token"
            ]
        else:
            client.get_url("")  # asks for the version
        return client


def _password(path: str, files: Files) -> str:
    content = files.read("WSGI_PROM_ETCD_PASSWORD_FILE", path, private=True)
    return content.decode("utf-8", "replace").rstrip("\r\n")


def errors() -> tuple[type[Exception], ...]:
    """Return what the methods of a client raise when etcd is away, refuses, or is not etcd."""
    import requests
    from etcd3gw.exceptions import Etcd3Exception

    # The last ones: of an answer that is not JSON, or not what was asked for.
    return (
        EtcdError,
        Etcd3Exception,
        requests.RequestException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    )


def _reason(text: str) -> str:
    """Return what is at the end of a long message of urllib3, in one line: the error that caused the others."""
    found = " ".join(text.split()).rpartition("Error(")[2].rpartition("): ")[2]
    # What comes first is a number, or, from older versions of urllib3, an object.
    found = re.sub(r"^\d+, ['\"]|^'?<.*?>: | \((_ssl\.c:|read timeout=).*", "", found)
    return found.rstrip(")'\" ").lstrip("'\"")[-200:] or "no reason is given"
