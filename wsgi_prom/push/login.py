"""Who this is to what answers over HTTP, and whom it trusts there: what the options of `cli.arguments.add_login` give."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError

if TYPE_CHECKING:
    import ssl

    from wsgi_prom.exporter.watched import Files


def openssl_reason(error: object) -> str:
    """Return what OpenSSL says in *error*, or in the last of its texts, without codes."""
    text = re.sub(r".*\[(?:SSL|X509)[^]]*\] ", "", str(error), flags=re.DOTALL)
    return re.sub(r"\s*\(_ssl\.c:\d+\).*", "", text, flags=re.DOTALL).strip(" )")


def is_refusal(error: object) -> bool:
    """
    Return whether *error* may be what comes of a missing client certificate.

    In TLS 1.3 a peer says so only after the handshake, and closes: its words may be lost (tried with Prometheus).
    """
    import ssl  # takes 10 ms

    cut_off = isinstance(error, ssl.SSLError | ConnectionResetError | BrokenPipeError)
    return cut_off and not isinstance(error, ssl.SSLCertVerificationError)


@dataclass(frozen=True)
class Login:
    """
    Who this is to a receiver: a *user* with a password in a file, or the bearer of a token in one.

    *ca_file*: what the receiver is verified by. *cert_file* and *key_file*: a client certificate.
    """

    user: str = ""
    password_file: str = ""
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def known(self) -> bool:
        """Whether a receiver is told who this is."""
        return bool(self.user or self.token_file or self.cert_file)

    def check(self) -> None:
        """Raise SettingError if one option lacks another."""
        _check_pair(("--user", self.user), ("--password-file", self.password_file))
        _check_pair(("--cert-file", self.cert_file), ("--key-file", self.key_file))
        if self.user and self.token_file:
            raise SettingError("--user and --token-file are both given. Give one of them.")

    def headers(self, files: Files) -> dict[str, str]:
        """Return the header that *files* make. Raises SettingError."""
        if self.user:
            password = _secret(files, "--password-file", self.password_file)
            return {"Authorization": f"Basic {b64encode(self.user.encode() + b':' + password).decode()}"}
        if self.token_file:
            token = _secret(files, "--token-file", self.token_file)
            if not re.fullmatch(rb"[\x21-\x7e]+", token):
                raise SettingError(
                    f"--token-file={self.token_file!r} holds no token. Give a file with one in a line."
                )
            return {"Authorization": f"Bearer {token.decode()}"}
        return {}

    def tls(self, files: Files) -> ssl.SSLContext:
        """Return what verifies the receiver, with the client certificate. Raises SettingError."""
        import ssl

        # OpenSSL reads them by their names. Here it is told why one cannot be read, and `files` knows it when one changes.
        for option, path in (
            ("--ca-file", self.ca_file),
            ("--cert-file", self.cert_file),
            ("--key-file", self.key_file),
        ):
            if path:
                files.read(option, path, private=option == "--key-file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ValueError) as error:
            raise SettingError(
                f"--ca-file={self.ca_file!r} cannot be used ({openssl_reason(error)}). Give a file in PEM."
            ) from error
        if self.cert_file:
            try:
                # Without a password OpenSSL asks for one on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except (OSError, ValueError) as error:
                raise SettingError(
                    f"--cert-file={self.cert_file!r} and --key-file={self.key_file!r} cannot be used ({openssl_reason(error)}). "
                    "Give files in PEM, the key without a password."
                ) from error
        return context


def _check_pair(*pair: tuple[str, str]) -> None:
    """Raise SettingError if only one of two options is given: of each its name and its value."""
    given = [option for option, value in pair if value]
    if len(given) == 1:
        (missing,) = [option for option, value in pair if not value]
        raise SettingError(f"{given[0]} is given without {missing}. Give both.")


def _secret(files: Files, option: str, path: str) -> bytes:
    return files.read(option, path, private=True).rstrip(b"\r\n")
