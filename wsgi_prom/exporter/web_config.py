"""
WSGI_PROM_WEB_CONFIG: a file in the web configuration format of exporter-toolkit, which Prometheus' own exporters share.

1. The file is read as strictly as exporter-toolkit reads it: an unknown or repeated key is an error.
2. A key that wsgi_prom cannot honour is an error, never ignored.
3. No message holds a value that may be a secret.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bcrypt
import yaml

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.http import tls
from wsgi_prom.exporter.users import Users
from wsgi_prom.setting_values import switch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wsgi_prom.exporter.watched import Files

_VARIABLE: Final = "WSGI_PROM_WEB_CONFIG"
_HASH: Final = re.compile(r"\$2[abxy]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(rf"(\d+(?:\.\d*)?|\.\d+)({'|'.join(_UNITS)})")
# The headers that exporter-toolkit can set, with the values that it takes where they are limited.
_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}


class RateLimit:
    """Allows *burst* requests at once, and one more in each *interval* (seconds): a token bucket."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        self._tokens = float(burst)
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def allow(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._filled) / self._interval)
            self._filled = now
            allowed = self._tokens >= 1
            self._tokens -= allowed
            return allowed


@dataclass(frozen=True)
class WebConfig:
    """The rules of a file; None for a missing one. Each response of the exporter gets *headers*."""

    tls: tls.Context | None = None
    users: Users | None = None
    headers: dict[str, str] = field(default_factory=dict)
    rate_limit: RateLimit | None = None

    @property
    def protections(self) -> list[str]:
        """Return the keys of the file by which clients are refused."""
        certificates = ["client_auth_type"] if self.tls and self.tls.verify_mode == ssl.CERT_REQUIRED else []
        return ["basic_auth_users"] * bool(self.users) + certificates


def load(files: Files, path: str) -> WebConfig:
    """Load the file at *path* and the files that it names. Raises SettingError."""
    content = files.read(_VARIABLE, path)
    try:
        given = _mapping(_document(content), _SECTIONS)
        return WebConfig(
            _tls(files, path, given.get("tls_server_config")),
            given.get("basic_auth_users"),
            given.get("http_server_config", {}).get("headers", {}),
            given.get("rate_limit"),
        )
    except SettingError:
        raise
    except (ValueError, TypeError) as error:
        raise SettingError(f"{_VARIABLE}={path!r}: {error}.") from error


def _document(content: bytes) -> Any:
    try:
        # BaseLoader: no tags, and every scalar is text. `compose`, since PyYAML's `load` lets a repeated key pass.
        root = yaml.compose(content, Loader=yaml.BaseLoader)
        if root is None:
            # Somebody is writing it: exporter-toolkit would open the metrics to every client meanwhile.
            raise ValueError("the file is empty. Unset the variable if no rule is wanted")
        return _plain(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"line {line} is not YAML: {error.problem}") from None  # without the line's text
    except (yaml.YAMLError, RecursionError):
        raise ValueError("the file is not YAML") from None


def _plain(node: yaml.Node) -> Any:
    """Return *node* as dicts, lists and strings; null is the empty string."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return "" if node.style is None and node.value in {"~", "null", "Null", "NULL"} else node.value
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key.value, str) or key.value in mapping:
            raise ValueError(f"line {key.start_mark.line + 1}: a key that is repeated or not plain text")
        mapping[key.value] = _plain(value)
    return mapping


def _mapping(value: Any, keys: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return the mapping *value*, each item parsed by its function in *keys*. An empty value is unset."""
    if value == "":
        return {}
    if not isinstance(value, dict):
        raise TypeError("a mapping of keys to values is expected here")
    parsed = {}
    for key, item in value.items():
        if key not in keys:
            raise ValueError(f"{key} is not a known key. There are {', '.join(keys)}")
        if item != "":
            try:
                parsed[key] = keys[key](item)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{key}: {error}") from None
    return parsed


def _switch(value: Any) -> bool:
    try:
        return switch(value)
    except (KeyError, AttributeError):
        raise ValueError("neither true nor false") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a plain text is expected here")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list is expected here")
    return [_text(item) for item in value]


def _headers(value: Any) -> dict[str, str]:
    headers = _mapping(value, dict.fromkeys(_HEADERS, _text))
    for name, text in headers.items():
        allowed = _HEADERS[name]
        if (allowed and text not in allowed) or not text.isprintable() or not text.isascii():
            raise ValueError(f"{name} is not {' or '.join(allowed) or 'printable ASCII'}")
    return headers


def _seconds(value: Any) -> float:
    """Parse a duration as Go writes it, such as 1s, 500ms or 1m30s."""
    parts = _DURATION.findall(value)
    if value != "0" and (not parts or "".join(map("".join, parts)) != value):
        raise ValueError("not a duration, such as 500ms, 1s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _unsupported(_: Any) -> None:
    raise ValueError("wsgi_prom does not support it: Python cannot set a list of curves. Remove the key")


def _users(value: Any) -> Users | None:
    if not isinstance(value, dict):
        raise TypeError("a mapping of users to bcrypt hashes is expected here")
    for name, text in value.items():
        if not _is_hash(text):
            raise ValueError(
                f"the value of {name} is not a bcrypt hash. Make a line with: htpasswd -nBC 10 {name}"
            )
    hashes = {name.encode(): text.encode() for name, text in value.items()}
    return Users(hashes, bcrypt.checkpw) if hashes else None


def _is_hash(value: Any) -> bool:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        return False
    try:
        # bcrypt checks the rest: here at the lowest cost (1 ms).
        bcrypt.checkpw(b"", f"$2b$04${value[7:]}".encode())
    except ValueError:
        return False
    return True


def _rate_limit(value: Any) -> RateLimit | None:
    given = _mapping(value, {"interval": _seconds, "burst": int})
    return RateLimit(given["interval"], given.get("burst", 0)) if given.get("interval") else None


_SECTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "tls_server_config": lambda value: _mapping(value, _TLS),
    # HTTP/2 is an offer, which no client has to take: wsgi_prom speaks HTTP/1.1 whether it is on or off.
    "http_server_config": lambda value: _mapping(value, {"http2": _switch, "headers": _headers}),
    "basic_auth_users": _users,
    "rate_limit": _rate_limit,
}
_TLS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("cert", "key", "client_ca", "cert_file", "key_file", "client_ca_file"), _text),
    **dict.fromkeys(("client_auth_type", "min_version", "max_version"), _text),
    **dict.fromkeys(("client_allowed_sans", "cipher_suites"), _texts),
    "prefer_server_cipher_suites": _switch,
    "curve_preferences": _unsupported,
}


def _tls(files: Files, path: str, given: dict[str, Any] | None) -> tls.Context | None:
    if not given:
        return None

    def pem(name: str, *, required: bool = True) -> bytes:
        file: str = given.pop(f"{name}_file", "")
        text: str = given.pop(name, "")
        if file:
            # A relative path starts at the configuration's own directory.
            return files.read(f"{_VARIABLE}={path!r}: {name}_file", str(Path(path).parent / file))
        if required and not text:
            raise ValueError(f"{name}_file is missing. Name a file in PEM")
        return text.encode()

    try:
        return tls.context(pem("cert"), pem("key"), pem("client_ca", required=False), **given)
    except SettingError:
        raise
    except ValueError as error:
        raise ValueError(f"tls_server_config: {error}") from error
