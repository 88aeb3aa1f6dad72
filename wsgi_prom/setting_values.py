"""
Parsers of settings: each takes a variable's text or a keyword's value.

An invalid value raises ValueError, TypeError, KeyError, OverflowError or AttributeError; settings.py makes a message of it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.app_reference import parse
from wsgi_prom.metrics import LONGEST_LABEL, NAMES, OPTIONAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network
    LabelValue = str | Callable[[Any], object]
    Exclusion = Callable[[Any], object]

_RESERVED_LABELS: Final = frozenset(
    {"status_class", "exception", "le", "quantile", "pid", "worker"}.union(
        *[(names.method, names.route, names.status, names.error_type) for names in NAMES.values()]
    )
)
_SWITCHES: Final = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
# Hosts that a socket listens on, and nobody connects to.
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - only compared


@dataclass(frozen=True)
class Address:
    """Where the exporter listens: a *host* and *port*, or the *path* of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Registry:
    """
    Where targets are registered. *kind* is file, http or etcd; *path* is that of the file, or the prefix of the keys in etcd.

    etcd has *members*, each a host and a port. *user* is empty without a login.
    """

    kind: str
    path: str = ""
    members: tuple[Address, ...] = ()
    user: str = ""
    tls: bool = False

    def __str__(self) -> str:
        if self.kind == "etcd":
            user = f"{self.user}@" if self.user else ""
            return f"etcd{'s' if self.tls else ''}://{user}{','.join(map(str, self.members))}{self.path}"
        return f"file:{self.path}" if self.path else self.kind


def address(value: str) -> Address | None:
    if value == "off":
        return None
    if value.startswith("unix:/"):
        return Address(path=value.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})", value, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise ValueError(value)
    return Address(host=match[1] or match[2], port=int(match[3]))


def name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value, re.ASCII):
        raise ValueError(value)
    return value


def reference(value: str) -> str:
    parse(value)
    return value


def path(value: str) -> str:
    if not re.fullmatch(r"/[^\s?#]+", value):
        raise ValueError(value)
    return value


def version(value: str) -> str:
    if len(value) > LONGEST_LABEL or not value.isprintable():
        raise ValueError(value)
    return value


def positive(value: str | int) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


def seconds(value: str | float) -> float:
    number = float(value)
    if not 1 <= number <= 3600:
        raise ValueError(value)
    return number


def switch(value: str | bool) -> bool:
    return value if isinstance(value, bool) else _SWITCHES[value.lower()]


def buckets(value: str | Sequence[float]) -> tuple[float, ...]:
    bounds = tuple(float(item) for item in _items(value))
    if bounds and bounds[-1] == float("inf"):
        bounds = bounds[:-1]
    if not bounds or not all(low < high for low, high in pairwise((*bounds, float("inf")))):
        raise ValueError(value)
    return bounds


def prefix(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", value):
        raise ValueError(value)
    return value


def names(value: str) -> str:
    if value not in NAMES:
        raise ValueError(value)
    return value


def metrics(value: str | Sequence[str]) -> frozenset[str]:
    names = frozenset(_items(value))
    if not names <= OPTIONAL:
        raise ValueError(value)
    return names


def labels(value: str | Mapping[str, Any]) -> tuple[tuple[str, LabelValue], ...]:
    given = dict(item.split("=", 1) for item in _items(value)) if isinstance(value, str) else dict(value)
    for name, content in given.items():
        allowed = re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name) and name not in _RESERVED_LABELS
        if not allowed or not (isinstance(content, str) or callable(content)):
            raise ValueError(name, content)
    # The static ones first, which are the same for all rows (request/rows.py).
    return tuple(sorted(given.items(), key=lambda item: callable(item[1])))


@dataclass(frozen=True)
class PathPattern:
    """Tells whether one of *patterns*, which are regular expressions, matches a request's whole path."""

    patterns: tuple[str, ...]

    def __call__(self, environ: Mapping[str, Any]) -> bool:
        # Texts and not compiled patterns: objects of equal patterns are equal, and re caches what it compiles.
        path = environ.get("PATH_INFO", "")
        return any(re.fullmatch(pattern, path) for pattern in self.patterns)


def exclusion(value: str | Sequence[str] | Callable[[Any], object]) -> Exclusion:
    if callable(value):
        return value
    patterns = value.split() if isinstance(value, str) else list(value)
    if not patterns:
        raise ValueError(value)
    try:
        return PathPattern(tuple(re.compile(pattern).pattern for pattern in patterns))
    except re.error as error:
        raise ValueError(value) from error


def file(value: str | os.PathLike[str]) -> str:
    # Absolute, since the exporter does not run in the server's working directory.
    path = os.fspath(value)
    if not re.fullmatch(r"/[^\0]+", path, re.DOTALL):
        raise ValueError(value)
    return path


def networks(value: str | Sequence[Any]) -> tuple[Network, ...]:
    networks = tuple(_network(item) for item in _items(value))
    if not networks:
        raise ValueError(value)
    return networks


def _network(value: Any) -> Network:
    from ipaddress import IPv6Network, ip_network  # noqa: PLC0415 - takes 3 ms, for this setting only

    network = ip_network(value)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return ip_network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def targets(value: str) -> str:
    if value not in {"application", "workers"}:
        raise ValueError(value)
    return value


def ports(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise ValueError(value)
    return int(match[1]), int(match[2])


def host(value: str) -> str:
    # An IPv6 address, or what stands before the colon of a target.
    if not re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|[A-Za-z0-9._-]+", value):
        raise ValueError(value)
    return value


def registries(value: str) -> tuple[Registry, ...]:
    # The members of etcd are a list too.
    return tuple(map(registry, re.split(r",(?=file:|http(?:,|$)|etcds?://)", value)))


def registry(value: str) -> Registry:
    """Parse one place where targets are registered."""
    if value == "http":
        return Registry("http")
    if value.startswith("file:"):
        path = file(value.removeprefix("file:"))
        if not path.endswith(".json") or path.endswith("/.json"):  # Prometheus takes the format from the name
            raise ValueError(value)
        return Registry("file", path)
    match = re.fullmatch(r"etcd(s?)://(?:([^\s:/@,]+)@)?([^\s/@]+)(/[^\s?#]*[^\s?#/])/?", value)
    if match is None:
        raise ValueError(value)
    members = [address(member) for member in match[3].split(",")]
    if not all(member and member.port for member in members):
        raise ValueError(value)
    return Registry("etcd", match[4], tuple(filter(None, members)), match[2] or "", bool(match[1]))


def mode(value: str | int) -> int:
    mode = value if isinstance(value, int) else int(re.fullmatch(r"0?([0-7]{3})", value, re.ASCII)[1], 8)  # type: ignore[index]
    if not 0o600 <= mode <= 0o777:
        raise ValueError(value)
    return mode


def _items(value: str | Iterable[Any]) -> list[Any]:
    return value.replace(",", " ").split() if isinstance(value, str) else list(value)
