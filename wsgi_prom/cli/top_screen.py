"""
What `wsgi-prom top` shows, drawn with rich: a few lines of the server, a table of its workers and one of its routes.

1. Texts of a server are drawn as they are, never as markup, and without control characters.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from wsgi_prom.cli.output import printable
from wsgi_prom.live import summary, tables, text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wsgi_prom.live.tables import Column
    from wsgi_prom.live.tables import Table as Rows
    from wsgi_prom.live.view import View

BOTH, WORKERS, ROUTES = range(3)

_BARS: Final = "▁▂▃▄▅▆▇█"
_KEYS: Final = "q quit  p pause  s sort  r reverse  / filter  w workers, routes or both"
_STYLES: Final = {"busy": "green", "booting": "yellow", "stopping": "yellow"}


@dataclass
class Shown:
    """What the user has chosen. *typed* is the filter that is being typed, None while no one is; *problem* is a message."""

    sort: str = ""
    reverse: bool = False
    filter: str = ""
    which: int = BOTH
    paused: bool = False
    typed: str | None = None
    problem: str = ""

    @property
    def table(self) -> Rows[Any]:
        """The table that is sorted."""
        return tables.WORKERS if self.which == WORKERS else tables.ROUTES


def console() -> Console:
    # Of a locale that has no dash.
    if isinstance(getattr(sys.stdout, "errors", None), str):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    return Console(highlight=False, markup=False, emoji=False)


def print_once(view: View, shown: Shown) -> None:
    out = console()
    for part in _head(view):
        out.print(part)
    for table, rows in _tables(view, shown):
        out.print("", _drawn(table, rows, shown, width=out.width if out.is_terminal else math.inf), sep="\n")


def screen(view: View, shown: Shown, width: int, height: int) -> RenderableType:
    """Return all of it, for a terminal of *width* columns and *height* lines."""
    head = _head(view)
    for line in head:
        line.truncate(width, overflow="ellipsis")
    found = _tables(view, shown)
    left = height - len(head) - 1 - len(found)
    parts: list[RenderableType] = [*head]
    for number, (table, rows) in enumerate(found):
        # A heading, and a line before it.
        more = [len(others) for _, others in found[number + 1 :]]
        most = max(left - 1 - sum(min(count + 1, left // 2) for count in more), 1)
        shown_rows = rows[:most]
        if len(rows) > most:
            shown_rows = rows[: max(most - 1, 0)]
        parts += [Text(), _drawn(table, shown_rows, shown, width=width)]
        if len(rows) > len(shown_rows):
            parts.append(Text(f"... {len(rows) - len(shown_rows)} more", style="dim"))
        left -= 1 + min(len(rows), most)
    parts += [Text()] * max(left, 0)
    foot = _foot(shown)
    foot.truncate(width, overflow="ellipsis")
    return Group(*parts, foot)


def _head(view: View) -> list[Text]:
    requests, capacity = view.requests, view.capacity
    title = Text(printable(summary.name(view.server)), style="bold")
    title.append(time.strftime("  %H:%M:%S", time.localtime(view.time)), style="not bold")
    title.append("" if view.seconds is None else f" over {max(round(view.seconds), 1)} s", style="not bold")
    title.append("  " + printable(", ".join(summary.about(view.server))), style="not bold dim")
    lines = [
        title,
        _line(
            ("requests", f"{text.rate(requests.per_second)}/s {_bars(view)}"),
            ("errors", text.share(requests.error_share), "red" if requests.error_share else ""),
            ("p50", text.seconds(requests.p50_seconds, above=requests.p50_above)),
            ("p99", text.seconds(requests.p99_seconds, above=requests.p99_above)),
            ("total", text.count(requests.requests)),
        ),
        _line(
            ("workers", summary.workers(view)),
            ("utilisation", text.share(capacity.utilisation)),
            ("load", summary.load(view)),
            ("oldest request", text.seconds(capacity.oldest_request_seconds)),
        ),
    ]
    queues = [(row.socket, summary.queue(row), "red" if row.drops else "") for row in view.queues]
    lines.append(_line(("queue", ""), *queues) if queues else _line(("queue", text.UNKNOWN)))
    exits = [(row.reason, text.count(row.exits), "") for row in summary.exits(view)]
    lines.append(_line(("exits", "" if exits else "0" if view.exits else text.UNKNOWN), *exits))
    if not view.readable:
        lines.append(
            Text(
                "The directory cannot be read: counters are those of the last time that it could.",
                style="red",
            )
        )
    return lines


def _line(*parts: tuple[str, ...]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, value, *style in parts:
        line.append(f"{printable(name)} ", style="dim")
        line.append(f"{printable(value)}  " if value else "", style=style[0] if style else "")
    return line


def _bars(view: View) -> str:
    known = [value for value in view.past.per_second[-12:] if value is not None]
    most = max(known, default=0.0)
    return (
        "".join(_BARS[min(int(max(value, 0.0) / most * len(_BARS)), len(_BARS) - 1)] for value in known)
        if most > 0
        else ""
    )


def _tables(view: View, shown: Shown) -> list[tuple[Rows[Any], list[Any]]]:
    workers = tables.matching(view.workers, shown.filter, tables.worker_names)
    routes = tables.matching(view.routes, shown.filter, tables.route_names)
    if shown.filter and shown.which == BOTH:
        # A filter of routes leaves no worker.
        workers = workers or view.workers
    found: list[tuple[Rows[Any], list[Any]]] = []
    if shown.which != ROUTES:
        found.append((tables.WORKERS, _sorted(tables.WORKERS, workers, shown)))
    if shown.which != WORKERS:
        found.append((tables.ROUTES, _sorted(tables.ROUTES, routes, shown)))
    return found


def _sorted(table: Rows[Any], rows: list[Any], shown: Shown) -> list[Any]:
    if table is shown.table:
        return table.sorted(rows, shown.sort, reverse=shown.reverse)
    return table.sorted(rows)


def _drawn(table: Rows[Any], rows: list[Any], shown: Shown, *, width: float) -> Table:
    columns = [column for column in table.columns if column.needs <= width]
    sorted_by = table.column(shown.sort if table is shown.table else "")
    drawn = Table(box=None, pad_edge=False, expand=True, header_style="reverse", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        title = Text(column.title, style="bold" if column is sorted_by else "")
        drawn.add_column(
            title,
            justify="left" if not column.number else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if number == 0 else None,
        )
    for row in rows:
        drawn.add_row(*(_cell(column, row) for column in columns))
    return drawn


def _cell(column: Column[Any], row: Any) -> Text:
    value = printable(column.text(row))
    style = _STYLES.get(value, "") if column.key == "state" else ""
    if column.key == "errors" and row.error_share:
        style = "red"
    return Text(value, style="dim" if value == text.UNKNOWN else style)


def _foot(shown: Shown) -> Text:
    if shown.typed is not None:
        return Text(f"filter: {printable(shown.typed)}_  (Enter keeps it, Esc ends it)")
    if shown.problem:
        return Text(printable(shown.problem), style="red")
    line = Text(_KEYS, style="dim")
    if shown.filter:
        line = Text(f"filter: {printable(shown.filter)}  ") + line
    if shown.paused:
        line = Text("paused  ", style="yellow") + line
    return line
