"""
The settings: what can be set, its default and the reason for it, and the one place that reads the environment.

Every setting is an environment variable `WSGI_PROM_<NAME>`; those of the middleware are keywords of
`PrometheusMiddleware` too, which win.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.catalog import OPTIONAL
from wsgi_prom.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network
    LabelValue = str | Callable[[Any], object]
    Exclusion = Callable[[Any], object]

PREFIX: Final = "WSGI_PROM_"

_RESERVED_LABELS: Final = frozenset(
    {"method", "route", "status", "status_class", "exception", "le", "quantile", "pid", "worker"}
)
_SWITCHES: Final = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


@dataclass(frozen=True)
class Address:
    """Where the exporter listens: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(value: str) -> Address | None:
    if value == "off":
        return None
    if value.startswith("unix:/"):
        return Address(path=value.removeprefix("unix:"))
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):(\d{1,5})", value, re.ASCII)
    if found is None or int(found[3]) > 65535:
        raise ValueError(value)
    return Address(host=found[1] or found[2], port=int(found[3]))


def _reference(value: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", value):
        raise ValueError(value)
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[^\s?#]+", value):
        raise ValueError(value)
    return value


def _positive(value: str | int) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


def _switch(value: str | bool) -> bool:
    return value if isinstance(value, bool) else _SWITCHES[value.lower()]


def _buckets(value: str | Sequence[float]) -> tuple[float, ...]:
    bounds = tuple(float(item) for item in _items(value))
    if bounds and bounds[-1] == float("inf"):
        bounds = bounds[:-1]
    if not bounds or not all(low < high for low, high in pairwise((*bounds, float("inf")))):
        raise ValueError(value)
    return bounds


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", value):
        raise ValueError(value)
    return value


def _metrics(value: str | Sequence[str]) -> frozenset[str]:
    names = frozenset(_items(value))
    if not names <= OPTIONAL:
        raise ValueError(value)
    return names


def _labels(value: str | Mapping[str, Any]) -> tuple[tuple[str, LabelValue], ...]:
    given = dict(item.split("=", 1) for item in _items(value)) if isinstance(value, str) else dict(value)
    for name, content in given.items():
        allowed = re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name) and name not in _RESERVED_LABELS
        if not allowed or not (isinstance(content, str) or callable(content)):
            raise ValueError(name, content)
    return tuple(given.items())


@dataclass(frozen=True)
class PathPattern:
    """Whether a request's whole path matches one of *patterns*, regular expressions each."""

    patterns: tuple[str, ...]

    def __call__(self, environ: Mapping[str, Any]) -> bool:
        # re keeps what it compiled: as fast as a compiled pattern kept here, and this object has a value.
        path = environ.get("PATH_INFO", "")
        return any(re.fullmatch(pattern, path) for pattern in self.patterns)


def _exclusion(value: str | Sequence[str] | Callable[[Any], object]) -> Exclusion:
    if callable(value):
        return value
    patterns = value.split() if isinstance(value, str) else list(value)
    if not patterns:
        raise ValueError(value)
    try:
        return PathPattern(tuple(re.compile(pattern).pattern for pattern in patterns))
    except re.error as error:
        raise ValueError(value) from error


def _file(value: str | os.PathLike[str]) -> str:
    # Absolute: the exporter runs in another directory than the server.
    path = os.fspath(value)
    if not re.fullmatch(r"/[^\0]+", path, re.DOTALL):
        raise ValueError(value)
    return path


def _networks(value: str | Sequence[Any]) -> tuple[Network, ...]:
    networks = tuple(_network(item) for item in _items(value))
    if not networks:
        raise ValueError(value)
    return networks


def _network(value: Any) -> Network:
    from ipaddress import IPv6Network, ip_network  # noqa: PLC0415 - 3 ms that most processes need not pay

    network = ip_network(value)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return ip_network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def _mode(value: str | int) -> int:
    mode = value if isinstance(value, int) else int(re.fullmatch(r"0?([0-7]{3})", value, re.ASCII)[1], 8)  # type: ignore[index]
    if not 0o600 <= mode <= 0o777:
        raise ValueError(value)
    return mode


def _items(value: str | Iterable[Any]) -> list[Any]:
    return value.replace(",", " ").split() if isinstance(value, str) else list(value)


def _setting(default: Any, parse: Any, right: str) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "right": right})


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Make it with `Settings.read`."""

    # Loopback: what an application counts is nobody else's business. 9464 is the exporters' port of OpenTelemetry's
    # Prometheus reader, so that a dashboard's scrape configuration need not change.
    bind: Address | None = _setting(  # noqa: RUF009 - a frozen value, made once
        Address("127.0.0.1", 9464), _address, "HOST:PORT, [IPV6]:PORT, unix:/PATH, or off"
    )
    # Its own user's, until somebody else is to read it.
    socket_mode: int = _setting(0o600, _mode, "the mode of the socket, three octal digits such as 660")
    # Who may read the metrics, at the exporter and at metrics_path. Secrets are in files, for they can be replaced there,
    # and the environment of a process can be read by more than its user thinks.
    allow: tuple[Network, ...] = _setting(
        (), _networks, "a list of addresses and networks, such as 10.0.0.0/8,::1"
    )
    token_file: str | None = _setting(None, _file, "the absolute path of a file")
    users_file: str | None = _setting(None, _file, "the absolute path of a file")
    tls_cert: str | None = _setting(None, _file, "the absolute path of a file")
    tls_key: str | None = _setting(None, _file, "the absolute path of a file")
    tls_client_ca: str | None = _setting(None, _file, "the absolute path of a file")
    app: str | None = _setting(None, _reference, "MODULE:CALLABLE, such as myapp:app")
    # Off unless asked for: a path of the application that anybody can read is a decision of its own.
    metrics_path: str | None = _setting(None, _path, "an absolute path, such as /metrics")
    # Before the name of each metric of the application's requests: two applications of one Prometheus job.
    prefix: str = _setting("", _prefix, "the beginning of a metric name, such as shop_")
    disable: frozenset[str] = _setting(frozenset(), _metrics, f"a list of {', '.join(sorted(OPTIONAL))}")
    # The client library's own default, which fits requests from 5 ms to 10 s.
    buckets: tuple[float, ...] = _setting(
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        _buckets,
        "upper bounds in seconds, in rising order, such as 0.1,0.5,2.5",
    )
    # A queue is empty, or it is the server's worst problem: coarser, and further up.
    queue_buckets: tuple[float, ...] = _setting(
        (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0),
        _buckets,
        "upper bounds in seconds, in rising order, such as 0.1,0.5,2.5",
    )
    # Off: for all but streams it says what the duration says, and costs another histogram for each route.
    first_byte: bool = _setting(False, _switch, "on or off")
    # Off: it multiplies the most expensive metric, and most questions are answered by the counter's status.
    status_class: bool = _setting(False, _switch, "on or off")
    labels: tuple[tuple[str, LabelValue], ...] = _setting(
        (), _labels, "a list of NAME=VALUE, with names that Prometheus allows and that are not ours"
    )
    exclude: Exclusion | None = _setting(  # noqa: RUF009 - a field, as the others
        None, _exclusion, "a list of regular expressions for whole paths, separated by blanks"
    )
    # An application with more routes, methods and statuses than this has a label that is not a template.
    label_limit: int = _setting(1000, _positive, "a number of label sets, 1 or more")

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
        """
        Read the environment; *keywords* win over it.

        Raises SettingError, which names the setting, its value and what would be right, also for an unknown one.
        """
        environ = os.environ if environ is None else environ
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {}
        for variable, value in environ.items():
            if variable.startswith(PREFIX):
                name = variable.removeprefix(PREFIX).lower()
                if name not in fields:
                    known = ", ".join(PREFIX + name.upper() for name in fields)
                    raise SettingError(f"{variable}={value!r} is no setting of wsgi_prom. There are {known}.")
                values[name] = _parse(fields[name], variable, value)
        for name, value in keywords.items():
            if name not in fields:
                raise SettingError(
                    f"{name}={value!r} is no setting of wsgi_prom. There are {', '.join(fields)}."
                )
            if value is not None:
                values[name] = _parse(fields[name], name, value)
        return cls(**values)


def _parse(field: dataclasses.Field[Any], name: str, value: Any) -> Any:
    try:
        return field.metadata["parse"](value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise SettingError(f"{name}={value!r} is not {field.metadata['right']}.") from None
