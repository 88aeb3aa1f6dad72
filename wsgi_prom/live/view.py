"""
What a person is shown, as plain data: the rows of `wsgi-prom top` and of the exporter's page, and the JSON of both.

1. The fields are a schema that others read: docs/live.md. A field is added, never renamed; else VERSION is another one.
2. None is a figure that is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Final

VERSION: Final = 1
# Of 1 January 10000, which no clock shows.
_LATEST: Final = 253402300800.0


class ViewError(ValueError):
    """The data is not a view of this version."""


@dataclass
class Server:
    """Whose figures these are: empty texts for what is not known."""

    application: str = ""
    application_version: str = ""
    framework: str = ""
    python: str = ""
    server: str = ""
    server_version: str = ""
    worker_class: str = ""
    pids: list[int] = field(default_factory=list)
    directory: str = ""
    wsgi_prom: str = ""


@dataclass
class Latency:
    """
    Quantiles of the durations in seconds. One that is *above* the histogram's highest bound has that bound in its place.
    """

    p50_seconds: float | None = None
    p50_above: bool = False
    p99_seconds: float | None = None
    p99_above: bool = False


@dataclass
class Totals(Latency):
    """All requests together: *requests* and *errors* since they are counted, the rest over the view's seconds."""

    requests: float | None = None
    errors: float | None = None
    per_second: float | None = None
    errors_per_second: float | None = None
    error_share: float | None = None
    in_progress: float | None = None


@dataclass
class RouteRow(Latency):
    """One method and route. *time_share* is its share of the time that all requests took."""

    method: str = ""
    route: str = ""
    requests: float = 0.0
    errors: float = 0.0
    per_second: float | None = None
    errors_per_second: float | None = None
    error_share: float | None = None
    time_share: float | None = None


@dataclass
class WorkerRow:
    """
    A process: a worker by the number of its slot, or another one of the server by its role.

    *load* is the average number of requests in progress, *cpu* that of processors in use.
    """

    worker: str = ""
    role: str = ""
    pid: int | None = None
    state: str | None = None
    request_age_seconds: float | None = None
    requests: float | None = None
    per_second: float | None = None
    load: float | None = None
    cpu: float | None = None
    resident_bytes: float | None = None
    age_seconds: float | None = None


@dataclass
class Capacity:
    """
    How full the server is: *workers* by state, the average number of requests in progress (*load*), how many there can be
    (*capacity*), and the share in use (*utilisation*).
    """

    workers: dict[str, int] = field(default_factory=dict)
    load: float | None = None
    capacity: float | None = None
    utilisation: float | None = None
    oldest_request_seconds: float | None = None
    reloads: float | None = None


@dataclass
class QueueRow:
    """
    A listen queue: *length* of *limit* connections wait. *drops* are all that were counted, *dropped* those over the view's
    seconds.
    """

    socket: str = ""
    length: float | None = None
    limit: float | None = None
    drops: float | None = None
    dropped: float | None = None


@dataclass
class ExitRow:
    """Workers that ended for a *reason*: *exits* in all, and *recent* ones over the view's seconds."""

    reason: str = ""
    exits: float = 0.0
    recent: float | None = None


@dataclass
class Past:
    """The last five minutes, oldest first: a figure for each of *times*, in seconds since the epoch."""

    times: list[float] = field(default_factory=list)
    per_second: list[float | None] = field(default_factory=list)
    errors_per_second: list[float | None] = field(default_factory=list)
    p50_seconds: list[float | None] = field(default_factory=list)
    p99_seconds: list[float | None] = field(default_factory=list)
    utilisation: list[float | None] = field(default_factory=list)
    load: list[float | None] = field(default_factory=list)
    queue: list[float | None] = field(default_factory=list)


@dataclass
class View:
    """
    What is shown of the *time* (in seconds since the epoch): rates are over the *seconds* before, None if there were none.

    If the directory is not *readable* any more, counters are those of the last time that it was.
    """

    version: int = VERSION
    time: float = 0.0
    seconds: float | None = None
    readable: bool = True
    server: Server = field(default_factory=Server)
    requests: Totals = field(default_factory=Totals)
    capacity: Capacity = field(default_factory=Capacity)
    queues: list[QueueRow] = field(default_factory=list)
    routes: list[RouteRow] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)
    exits: list[ExitRow] = field(default_factory=list)
    past: Past = field(default_factory=Past)

    def to_json(self) -> dict[str, Any]:
        # Not by asdict, which copies each figure: 1.3 s for 10,000 routes, instead of 0.1.
        parts = {name: dict(vars(getattr(self, name))) for name in _PARTS}
        rows = {name: [dict(vars(row)) for row in getattr(self, name)] for name in _ROWS}
        return {**vars(self), **parts, **rows}

    @classmethod
    def of_json(cls, data: object) -> View:
        """Return the view that `to_json` has made *data* of. Fields that are not known here are left out. Raises ViewError."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ViewError("it is no view of this version")
        found = cls()
        try:
            found.time = _time(data["time"])
            found.seconds = _checked("float | None", data["seconds"])
            found.readable = bool(data["readable"])
            for name, kind in _PARTS.items():
                setattr(found, name, _filled(kind, data[name]))
            for name, kind in _ROWS.items():
                setattr(found, name, [_filled(kind, row) for row in data[name]])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ViewError(f"it is no view ({type(error).__name__}: {error})") from error
        return found


_PARTS: Final = {"server": Server, "requests": Totals, "capacity": Capacity, "past": Past}
_ROWS: Final = {"queues": QueueRow, "routes": RouteRow, "workers": WorkerRow, "exits": ExitRow}


def _time(value: Any) -> float:
    time: float = _checked("float", value)
    if not 0 <= time < _LATEST:
        raise ValueError(f"{time!r} is no time of today")
    return time


def _filled(kind: type, data: dict[str, Any]) -> Any:
    """Return an object of *kind* with the fields of *data*, each of the type that its default or its name says."""
    values = {
        entry.name: _checked(entry.type, data[entry.name]) for entry in fields(kind) if entry.name in data
    }
    return kind(**values)


def _checked(kind: Any, value: Any) -> Any:
    """Return *value* if it is of the *kind* that a field is annotated with. Raises TypeError."""
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in {"float", "int | None", "float | None", "str | None"}:
        wanted = str if kind.startswith("str") else (int, float)
        known = isinstance(value, wanted) and (isinstance(value, str) or math.isfinite(value))
        if known or (value is None and "None" in kind):
            return value
    if kind.startswith("list") and isinstance(value, list):
        inner = kind[5:-1]
        return [_checked(inner if inner != "int" else "float", item) for item in value]
    if kind.startswith("dict") and isinstance(value, dict):
        return {str(name): int(number) for name, number in value.items()}
    raise TypeError(f"{value!r} is no {kind}")
