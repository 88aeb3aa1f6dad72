"""
A receiver over HTTP, by urllib3: how it is asked, and what its answers mean.

1. A request has a time limit, for all of its answer, is not redirected, and goes through no proxy.
2. No message holds a password or a token, nor the query of a URL, which may be one. Files with them are read again when they change.
"""

from __future__ import annotations

import logging
import re
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from wsgi_prom import version
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.watched import Watched
from wsgi_prom.http_peers import is_loopback, pool_classes
from wsgi_prom.push.login import is_refusal, openssl_reason
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Mapping

    from wsgi_prom.push.login import Login

log = logging.getLogger("wsgi_prom")

# A receiver that lives answers in well under a second.
REQUEST_SECONDS: Final = 5.0
# The longest pause that a receiver can ask for: a wrong date would silence this process.
_LONGEST_PAUSE: Final = 600.0
# Remote write's specification asks for all of 5xx, and allows 429.
_TRY_LATER: Final = frozenset({429, *range(500, 600)})
_SHOWN_CHARACTERS: Final = 200


def require(option: str, extra: str, *modules: str) -> None:
    """Raise SettingError if one of *modules*, which *extra* installs and *option* needs, is missing."""
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        raise SettingError(
            f"{option} needs {error.name}, which is not installed. Run pip install 'wsgi-prom[{extra}]'"
        ) from error


class Endpoint:
    """
    What *option* names by *url*. *expects*: what should answer there, for messages. For one thread.

    Raises SettingError for a URL or a file that cannot be used. Call `require` for urllib3 before.
    """

    def __init__(self, option: str, url: str, login: Login, expects: str) -> None:
        self.where = f"{option}={_shown(url)!r}"
        self._url = url
        self._expects = expects
        self._login = Watched(login.headers)
        self._not_before = 0.0
        host = _check(option, url)
        if url.lower().startswith("http:"):
            if login.cert_file:
                raise SettingError(
                    f"{self.where} is without TLS, which --cert-file needs. Give a URL with https://."
                )
            if login.known and not is_loopback(host):
                log.warning(
                    "%s gets the %s without TLS: it can be read on the way. Name a URL with https://",
                    self.where,
                    "password" if login.user else "token",
                )
        self._pool = Watched(lambda files: _pool(login.tls(files)))

    def ask(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        method: str = "POST",
        url: str = "",
        later: Collection[int] = _TRY_LATER,
    ) -> bytes:
        """
        Send *body*, and return the content of an answer that says it was taken. Raises PushError.

        It is not lasting for a receiver that is away, or answers with a status of *later*.
        """
        left = self._not_before - time.monotonic()
        if left > 0:
            raise PushError(f"{self.where} wants no request for {left:.0f} s", pause=left)
        from urllib3.exceptions import HTTPError

        own = {"User-Agent": f"wsgi_prom/{version.installed()}", **headers, **self._login.value}
        try:
            answer = self._pool.value.request(
                method,
                url or self._url,
                body=body,
                headers=own,
                redirect=False,
                retries=False,
                timeout=REQUEST_SECONDS,
            )
        except HTTPError as error:
            raise self._unreachable(error) from error
        if not 200 <= answer.status < 300:
            raise self._refused(answer, later)
        content: bytes = answer.data
        return content

    def _unreachable(self, error: Exception) -> PushError:
        text = str(error)
        verify = re.search(r"certificate verify failed: ([^()\[\]]+)", text)
        if verify:
            return PushError(
                f"{self.where}: the certificate does not verify ({verify[1].strip()}). Set --ca-file to the certificates of its "
                "authority, and name a host that is in its certificate",
                lasting=True,
            )
        if "[SSL" in text:
            reason = openssl_reason(text)
            if re.search("alert.*(certificate|unknown ca)", reason):
                return PushError(
                    f"{self.where} wants another client certificate ({reason}). Give one of an authority that it trusts by --cert-file "
                    "and --key-file",
                    lasting=True,
                )
            return PushError(
                f"{self.where} does not speak TLS as it should ({reason}). If it speaks none, write http://",
                lasting=True,
            )
        told = f"{self.where} does not answer ({_reason(error)})"
        if self._url.lower().startswith("https:") and is_refusal(_cause(error)):
            told += ". If it wants a client certificate, give one of an authority that it trusts by --cert-file and --key-file"
        return PushError(told)

    def _refused(self, answer: Any, later: Collection[int]) -> PushError:
        status = answer.status
        said = _one_line(answer.data[: 10 * _SHOWN_CHARACTERS].decode("utf-8", "replace"))
        answered = f"{self.where} answers {status}{f' ({said})' if said else ''}"
        if status in later:
            from urllib3.util import Retry

            try:
                pause = Retry().get_retry_after(answer) or 0.0
            except Exception:  # neither a number nor a date
                pause = 0.0
            pause = min(pause, _LONGEST_PAUSE)
            self._not_before = time.monotonic() + pause
            return PushError(answered, pause=pause)
        if status in {401, 403}:
            remedy = "It refuses the login: correct --user and --password-file, or --token-file"
        elif 300 <= status < 400:
            location = _one_line(answer.headers.get("Location", "unknown"))
            remedy = f"Name the URL that it redirects to: {_shown(location)}"
        else:
            remedy = f"It should be {self._expects}"
        return PushError(f"{answered}. {remedy}", lasting=True)

    def unexpected(self, what: str) -> PushError:
        """Return the error of an answer that says *what* it should not."""
        return PushError(f"{self.where} {what}. It should be {self._expects}", lasting=True)


def _pool(tls: ssl.SSLContext) -> Any:
    import urllib3

    found = urllib3.PoolManager(ssl_context=tls, maxsize=1)
    found.pool_classes_by_scheme = pool_classes()
    return found


def _check(option: str, url: str) -> str:
    """Return the host of *url*. Raises SettingError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        good = parts.scheme.lower() in {"http", "https"} and host and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        shown = re.sub(r"//.*@", "//***@", _shown(url))
        raise SettingError(f"{option}={shown!r} is not a URL. Give one such as https://HOST:PORT/PATH.")
    if parts.username is not None:
        raise SettingError(
            f"{option} has a user in its URL. Give it by --user, and the password by --password-file."
        )
    return host


def _shown(url: str) -> str:
    """Return *url* for messages."""
    path, query, _ = url.partition("?")
    return f"{path}{query and '?***'}"


def _one_line(text: str) -> str:
    """Return the beginning of *text*, which comes from outside."""
    return " ".join("".join([c if c.isprintable() else " " for c in text]).split())[:_SHOWN_CHARACTERS]


def _cause(error: Exception) -> BaseException:
    return error.__cause__ or error.__context__ or error


def _reason(error: Exception) -> str:
    """Return the error that caused *error*, in one line."""
    cause = _cause(error)
    text = getattr(cause, "strerror", None) or str(cause)
    return _one_line(text.rpartition("): ")[2].strip("() "))
