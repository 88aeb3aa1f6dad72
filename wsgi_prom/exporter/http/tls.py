"""The TLS context of a web configuration's `tls_server_config`. Wrong values raise ValueError, with the key and a remedy."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.http.certificate import expiry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CLIENT_AUTH: Final = {
    "NoClientCert": ssl.CERT_NONE,
    # Every client is let in, whatever certificate it shows, so the exporter does not ask for one.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# Go's names of cipher suites for TLS 1.2, and the replacements that make OpenSSL's names of them.
_SUITE: Final = re.compile(r"TLS_[A-Z0-9_]+_WITH_[A-Z0-9_]+")
_SPELLING: Final = (
    ("TLS_RSA_WITH_", ""), ("TLS_", ""), ("_WITH_", "_"), ("AES_", "AES"), ("CBC_SHA", "SHA"),
    ("POLY1305_SHA256", "POLY1305"), ("_", "-"),
)  # fmt: skip


class Connection(ssl.SSLSocket):
    """A connection whose handshake fails for a client without one of the context's *allowed_sans*."""

    context: Context

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        allowed = self.context.allowed_sans
        if allowed and not allowed & _names(self):
            raise ssl.SSLError("the client's certificate has none of client_allowed_sans")


class Context(ssl.SSLContext):
    """
    With *allowed_sans*, a client's certificate must have one of these names (subjectAltName).

    The certificate that it serves expires at *expiry*, in seconds since the epoch; None if that is unknown.
    """

    sslsocket_class = Connection
    allowed_sans: frozenset[str] = frozenset()
    expiry: float | None = None


def context(
    cert: bytes,
    key: bytes,
    client_ca: bytes = b"",
    *,
    client_auth_type: str = "NoClientCert",
    client_allowed_sans: Sequence[str] = (),
    min_version: str = "TLS12",
    max_version: str = "TLS13",
    cipher_suites: Sequence[str] = (),
    prefer_server_cipher_suites: bool = True,
) -> Context:
    """
    Return a context for *cert* and *key*, and for clients whose certificates *client_ca* has signed, all in PEM.

    The other parameters are keys of exporter-toolkit's format, with its defaults.
    """
    made = Context(ssl.PROTOCOL_TLS_SERVER)
    _set_versions(made, min_version, max_version)
    _set_ciphers(made, cipher_suites)
    if not prefer_server_cipher_suites:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        with _file(cert) as cert_path, _file(key) as key_path:
            # With no password given, OpenSSL would ask for one on the terminal, and wait.
            made.load_cert_chain(cert_path, key_path, password=lambda: b"")
    except OSError as error:
        raise ValueError(
            f"the certificate and the key cannot be used: {_reason(error)}. Name a certificate chain and its key in PEM, "
            "the key without a password"
        ) from error
    made.expiry = expiry(cert)
    _set_client_auth(made, client_auth_type, client_ca)
    made.allowed_sans = frozenset(client_allowed_sans)
    if client_allowed_sans and made.verify_mode == ssl.CERT_NONE:
        raise ValueError("client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert")
    return made


def _set_versions(made: Context, minimum: str, maximum: str) -> None:
    for name in (minimum, maximum):
        if name not in _VERSIONS:
            raise ValueError(f"{name} is not a version of TLS. There are {', '.join(_VERSIONS)}")
    # OpenSSL's default security level refuses 1.0 and 1.1 in any case.
    lowest, highest = max(_VERSIONS[minimum], _VERSIONS["TLS12"]), _VERSIONS[maximum]
    if lowest > highest:
        raise ValueError("max_version is below min_version or TLS12. wsgi_prom speaks TLS12 and TLS13")
    made.minimum_version, made.maximum_version = lowest, highest


def _set_ciphers(made: Context, suites: Sequence[str]) -> None:
    names = []
    for suite in suites:
        if suite in {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}:
            continue  # of TLS 1.3, which always has all three, in Go as here
        name = suite if _SUITE.fullmatch(suite) else ""
        for old, new in _SPELLING:
            name = name.replace(old, new)
        try:
            made.set_ciphers(name)  # alone: OpenSSL skips an unknown name if a known one follows
        except ssl.SSLError:
            raise ValueError(f"cipher_suites: OpenSSL does not know {suite}. Remove it") from None
        names.append(name)
    if names:
        made.set_ciphers(":".join(names))
    elif suites and made.maximum_version < ssl.TLSVersion.TLSv1_3:
        raise ValueError("cipher_suites has none for TLS12, which max_version asks for")
    elif suites:
        made.minimum_version = ssl.TLSVersion.TLSv1_3


def _set_client_auth(made: Context, kind: str, authority: bytes) -> None:
    if kind in {"RequireAnyClientCert", "RequireClientCert"}:
        raise ValueError(
            f"client_auth_type: {kind} takes any certificate unseen, which Python cannot do. "
            "Set RequireAndVerifyClientCert, with client_ca_file"
        )
    if kind not in _CLIENT_AUTH:
        raise ValueError(f"client_auth_type is not one of {', '.join(_CLIENT_AUTH)}")
    if authority and kind == "NoClientCert":
        raise ValueError("client_ca needs client_auth_type: RequireAndVerifyClientCert")
    made.verify_mode = _CLIENT_AUTH[kind]
    if authority:
        try:
            with _file(authority) as path:
                made.load_verify_locations(path)
        except OSError as error:
            raise ValueError(
                f"client_ca cannot be used: {_reason(error)}. Name certificates in PEM"
            ) from error
    elif made.verify_mode != ssl.CERT_NONE:
        made.load_default_certs(ssl.Purpose.CLIENT_AUTH)  # as in Go: those of the system


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """Give OpenSSL, which reads only files, a path to *content* in memory."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _names(connection: ssl.SSLSocket) -> set[str]:
    """Return the DNS names, addresses and URIs of the client's certificate, as Go writes them."""
    certificate: Mapping[str, Any] = connection.getpeercert() or {}
    return {
        str(ipaddress.ip_address(name.strip())) if kind == "IP Address" else name
        for kind, name in certificate.get("subjectAltName", ())
    }


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
