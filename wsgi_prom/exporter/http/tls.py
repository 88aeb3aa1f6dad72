"""TLS for the exporter: its certificate, and the certificates that it asks of its clients."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.watched import Watched, read

if TYPE_CHECKING:
    import socket
    from typing import Self

    from wsgi_prom.settings import Settings


class Tls:
    """
    The certificate, its key and the clients' authority, as *settings* name them; replaced files count at once.

    Raises SettingError if they cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        paths = [settings.tls_cert, settings.tls_key, settings.tls_client_ca]
        self._context = Watched(self._load, *filter(None, paths))

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what *settings* ask for, None if that is no TLS. Raises SettingError."""
        if settings.tls_cert:
            return cls(settings)
        for name in ("tls_key", "tls_client_ca"):
            if getattr(settings, name):
                raise SettingError(
                    f"WSGI_PROM_{name.upper()}={getattr(settings, name)!r} is of no use without a certificate. "
                    "Set WSGI_PROM_TLS_CERT too."
                )
        return None

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return *connection* for TLS, its handshake yet to come. Raises OSError or ValueError if it is gone."""
        return self._context.value.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _load(self) -> ssl.SSLContext:
        # A new one each time: one that has taken a certificate and then not its key is of no use.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        cert, key, client_ca = self._settings.tls_cert, self._settings.tls_key, self._settings.tls_client_ca
        assert cert is not None  # noqa: S101 - by `of`
        if key is None:
            read("WSGI_PROM_TLS_CERT", cert)  # it holds the key as well
        else:
            read("WSGI_PROM_TLS_CERT", cert, secret=False)
            read("WSGI_PROM_TLS_KEY", key)
        try:
            # Without a password OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(cert, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            named = f" with WSGI_PROM_TLS_KEY={key!r}" if key else ""
            raise SettingError(
                f"WSGI_PROM_TLS_CERT={cert!r}{named} cannot be used: {_reason(error)}. Name a certificate chain and its "
                "key in PEM, the key without a password."
            ) from error
        if client_ca:
            read("WSGI_PROM_TLS_CLIENT_CA", client_ca, secret=False)
            try:
                context.load_verify_locations(client_ca)
            except (OSError, ValueError) as error:
                raise SettingError(
                    f"WSGI_PROM_TLS_CLIENT_CA={client_ca!r} cannot be used: {_reason(error)}. Name certificates in PEM."
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
