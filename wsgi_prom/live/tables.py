"""The tables of routes and workers: their columns, and in which order and which of the rows are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from wsgi_prom.live import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.live.view import RouteRow, WorkerRow

Row = TypeVar("Row")

# A terminal that is wider than the usual one, and one that is wider than a phone.
_WIDE: Final = 100
_NARROW: Final = 60


@dataclass(frozen=True)
class Column(Generic[Row]):
    """
    A column: *key* names it in options and links. *value* is what it is sorted by, None where that is not known; *text* is
    what is shown. *number*: it is a figure, of which the largest come first. *needs*: characters of a line; where it has fewer,
    the column is left out.
    """

    key: str
    title: str
    value: Callable[[Row], Any]
    text: Callable[[Row], str]
    number: bool = True
    needs: int = 0


@dataclass(frozen=True)
class Table(Generic[Row]):
    """A table's *columns*; *default* is the key of the one that it is sorted by if nobody says another."""

    name: str
    columns: tuple[Column[Row], ...]
    default: str

    def column(self, key: str) -> Column[Row]:
        """Return the column called *key*, or that of the default."""
        found = {column.key: column for column in self.columns}
        return found.get(key) or found[self.default]

    def sorted(self, rows: Iterable[Row], key: str = "", *, reverse: bool = False) -> list[Row]:
        """
        Return *rows* in the order of a column: figures from the largest, texts from a to z, in *reverse* the other way round.

        Those whose figure is not known come last.
        """
        column = self.column(key)
        known: list[Row] = []
        unknown: list[Row] = []
        for row in rows:
            (unknown if column.value(row) is None else known).append(row)
        known.sort(key=column.value, reverse=column.number != reverse)
        return [*known, *unknown]


def matching(rows: Iterable[Row], words: str, names: Callable[[Row], str]) -> list[Row]:
    """Return those of *rows* whose *names* have each of the *words*, in upper or lower case."""
    wanted = words.lower().split()
    return [row for row in rows if all(word in names(row).lower() for word in wanted)]


def route_names(row: RouteRow) -> str:
    return f"{row.method} {row.route}"


def worker_names(row: WorkerRow) -> str:
    return f"{worker_name(row)} {row.role} {row.state or ''} {row.pid or ''}"


def worker_name(row: WorkerRow) -> str:
    """Return the number of a worker, and the role of any other process."""
    if row.role == "worker":
        return row.worker
    return f"{row.role} {row.worker}".strip()


def _order(row: WorkerRow) -> tuple[bool, str, int]:
    return row.role != "worker", row.role, int(row.worker) if row.worker.isdecimal() else -1


ROUTES: Final[Table[RouteRow]] = Table(
    "routes",
    (
        Column("route", "Route", lambda row: (row.route, row.method), route_names, number=False),
        Column("rate", "Req/s", lambda row: row.per_second, lambda row: text.rate(row.per_second)),
        Column("errors", "Errors", lambda row: row.error_share, lambda row: text.share(row.error_share)),
        Column(
            "p50",
            "p50",
            lambda row: row.p50_seconds,
            lambda row: text.seconds(row.p50_seconds, above=row.p50_above),
            needs=_NARROW,
        ),
        Column(
            "p99",
            "p99",
            lambda row: row.p99_seconds,
            lambda row: text.seconds(row.p99_seconds, above=row.p99_above),
        ),
        Column("time", "Time", lambda row: row.time_share, lambda row: text.share(row.time_share)),
        Column(
            "count", "Requests", lambda row: row.requests, lambda row: text.count(row.requests), needs=_WIDE
        ),
    ),
    "time",
)

WORKERS: Final[Table[WorkerRow]] = Table(
    "workers",
    (
        Column("worker", "Worker", _order, worker_name, number=False),
        Column("pid", "Pid", lambda row: row.pid, lambda row: str(row.pid or text.UNKNOWN), needs=_WIDE),
        Column("state", "State", lambda row: row.state, lambda row: row.state or text.UNKNOWN, number=False),
        Column(
            "age",
            "Request age",
            lambda row: row.request_age_seconds,
            lambda row: text.seconds(row.request_age_seconds),
            needs=_NARROW,
        ),
        Column("rate", "Req/s", lambda row: row.per_second, lambda row: text.rate(row.per_second)),
        Column("load", "Load", lambda row: row.load, lambda row: text.rate(row.load), needs=_NARROW),
        Column("cpu", "CPU", lambda row: row.cpu, lambda row: text.share(row.cpu)),
        Column("memory", "Memory", lambda row: row.resident_bytes, lambda row: text.size(row.resident_bytes)),
        Column(
            "count", "Requests", lambda row: row.requests, lambda row: text.count(row.requests), needs=_WIDE
        ),
        Column(
            "uptime", "Up", lambda row: row.age_seconds, lambda row: text.age(row.age_seconds), needs=_WIDE
        ),
    ),
    "worker",
)
