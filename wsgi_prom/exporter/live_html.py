"""
The page for people as HTML: whose figures, links, four lines, and the tables of routes and workers.

1. Every text of a label, a header or a setting is escaped, and stands between tags or in quotes.
2. The page is complete without its script, which replaces each element of the class `live` by the one of a later page.
"""

from __future__ import annotations

import time
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from wsgi_prom.exporter.chart import Line, chart
from wsgi_prom.live import summary, tables, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsgi_prom.live.tables import Column, Table
    from wsgi_prom.live.view import View

STYLE: Final = (files(__package__) / "page.css").read_text("utf-8")
SCRIPT: Final = (files(__package__) / "page.js").read_text("utf-8")

# Rows of a table. All of them are in the JSON.
MOST_ROWS: Final = 100


def page(
    view: View,
    order: Mapping[str, str],
    links: Iterable[tuple[str, str]],
    measured: Iterable[tuple[str, str, str]],
) -> str:
    """
    Return the page of *view*. *order* has the column that each table is sorted by, with a `-` for the reverse order.

    *links* are paths and what they are called. *measured* are the metrics that there are: name, type and help.
    """
    title = escape(summary.name(view.server))
    about = " · ".join(map(escape, summary.about(view.server)))
    found = "".join(f'<a href="{escape(path)}">{escape(name)}</a>' for path, name in links)
    order = {table.name: order.get(table.name, "") for table in (tables.ROUTES, tables.WORKERS)}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} &ndash; wsgi_prom</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="live" id="about">{about}</p>
<nav aria-label="Pages of this exporter">{found}</nav>
</header>
<main>
<div class="bar">
<p class="live" id="period">{_period(view)}</p>
<div id="controls"><a href="{escape(_href(order))}">Update</a></div>
</div>
<p id="problem" role="status"></p>
<div class="live cards" id="cards">{_requests(view)}{_latency(view)}{_utilisation(view)}{_queue(view)}</div>
{_table(tables.ROUTES, view.routes, order)}
{_table(tables.WORKERS, view.workers, order)}
<div class="two">{_queues(view)}{_exits(view)}</div>
{_measured(measured)}
</main>
<footer><p>wsgi_prom {escape(view.server.wsgi_prom)}{_directory(view)}</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _period(view: View) -> str:
    read = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(view.time))
    told = f'<time datetime="{read}">{read[11:19]} UTC</time>. {escape(summary.period(view))}'
    if not view.readable:
        told += " <strong>The directory cannot be read: counters are those of the last time that it could.</strong>"
    return told


def _requests(view: View) -> str:
    requests, past = view.requests, view.past
    return _card(
        "Requests",
        text.rate(requests.per_second),
        "/s",
        (
            (f"{text.share(requests.error_share)} errors", requests.error_share),
            (f"{text.count(requests.in_progress)} in progress", None),
        ),
        chart(
            "Requests per second",
            view.time,
            past.times,
            [Line("requests", "one", past.per_second), Line("errors", "bad", past.errors_per_second)],
            text.rate,
        ),
    )


def _latency(view: View) -> str:
    requests, past = view.requests, view.past
    return _card(
        "Latency, p99",
        text.seconds(requests.p99_seconds, above=requests.p99_above),
        "",
        (
            (f"p50 {text.seconds(requests.p50_seconds, above=requests.p50_above)}", None),
            (f"oldest request {text.seconds(view.capacity.oldest_request_seconds)}", None),
        ),
        chart(
            "Latency",
            view.time,
            past.times,
            [Line("p99", "one", past.p99_seconds), Line("p50", "two", past.p50_seconds)],
            text.seconds,
        ),
    )


def _utilisation(view: View) -> str:
    """Return the share of the capacity that is in use, or where the capacity is not known the load alone."""
    capacity, past = view.capacity, view.past
    workers = (summary.workers(view), None)
    if capacity.utilisation is None:
        drawn = chart("Load", view.time, past.times, [Line("load", "one", past.load)], text.rate)
        return _card("Load", text.rate(capacity.load), "", (workers,), drawn)
    line = Line("utilisation", "one", past.utilisation)
    drawn = chart("Utilisation", view.time, past.times, [line], text.share, 1.0)
    load = (f"load {summary.load(view)}", None)
    return _card("Utilisation", text.share(capacity.utilisation), "", (workers, load), drawn)


def _queue(view: View) -> str:
    lengths = [row.length for row in view.queues if row.length is not None]
    drops = sum(row.drops or 0 for row in view.queues)
    line = Line("queue", "one", view.past.queue)
    return _card(
        "Listen queue",
        text.count(sum(lengths) if lengths else None),
        "",
        (
            ("connections waiting" if lengths else "not known", None),
            *([(f"{text.count(drops)} dropped", drops)] if drops else []),
        ),
        chart("Connections that wait", view.time, view.past.times, [line], text.count),
    )


def _card(title: str, figure: str, unit: str, more: Iterable[tuple[str, float | None]], drawn: str) -> str:
    """Return a figure with its *unit*, and *more* words about it, each with a figure that is bad unless it is 0 or None."""
    words = ", ".join(
        f'<span class="bad">{escape(word)}</span>' if bad else escape(word) for word, bad in more
    )
    return (
        f'<section class="card"><h2>{escape(title)}</h2>'
        f'<p class="figure">{escape(figure)}<small>{escape(unit)}</small></p><p class="more">{words}</p>{drawn}</section>'
    )


def _table(table: Table[Any], rows: list[Any], order: Mapping[str, str]) -> str:
    key = order[table.name]
    shown = table.sorted(rows, key.lstrip("-"), reverse=key.startswith("-"))[:MOST_ROWS]
    caption = f"{table.name.capitalize()}"
    if len(rows) > len(shown):
        caption += f", the first {len(shown)} of {len(rows):,}"
    heads = "".join(_head(table, column, order) for column in table.columns)
    body = "".join(
        "<tr>"
        + "".join(_cell(column, row, first=not at) for at, column in enumerate(table.columns))
        + "</tr>"
        for row in shown
    )
    empty = f'<tr><td colspan="{len(table.columns)}">None are known.</td></tr>'
    return (
        f'<section><h2 class="live" id="{table.name}-title">{caption}</h2>'
        f'<div class="scroll" role="region" aria-labelledby="{table.name}-title" tabindex="0"><table>'
        f'<thead class="live" id="{table.name}-head"><tr>{heads}</tr></thead>'
        f'<tbody class="live" id="{table.name}-rows">{body or empty}</tbody></table></div></section>'
    )


def _head(table: Table[Any], column: Column[Any], order: Mapping[str, str]) -> str:
    now = order[table.name]
    current = table.column(now.lstrip("-")) is column
    reverse = now.startswith("-")
    falls = column.number != reverse
    then = f"-{column.key}" if current and not reverse else column.key
    state = f' aria-sort="{"descending" if falls else "ascending"}"' if current else ""
    arrow = f' <span aria-hidden="true">{"↓" if falls else "↑"}</span>' if current else ""
    href = escape(_href({**order, table.name: then}))
    return (
        f'<th scope="col"{_class(column)}{state}>'
        f'<a href="{href}" id="{table.name}-{column.key}">{escape(column.title)}{arrow}</a></th>'
    )


def _cell(column: Column[Any], row: Any, *, first: bool) -> str:
    value = column.text(row)
    bad = column.key == "errors" and row.error_share
    if first:
        return f'<th scope="row">{escape(value)}</th>'
    style = f"{value} state" if column.key == "state" and value.isalpha() else "bad" if bad else ""
    return f"<td{_class(column, style)}>{escape(value)}</td>"


def _class(column: Column[Any], more: str = "") -> str:
    words = ["number"] * column.number + ["minor"] * bool(column.needs) + [more] * bool(more)
    return f' class="{escape(" ".join(words))}"' if words else ""


def _href(order: Mapping[str, str]) -> str:
    return "?" + urlencode({name: key for name, key in order.items() if key})


def _queues(view: View) -> str:
    rows = [
        (row.socket, text.count(row.length), text.count(row.limit), text.count(row.drops))
        for row in view.queues
    ]
    return _plain("queues", "Listen queues", ("Socket", "Waiting", "Limit", "Dropped"), rows, "Not known.")


def _exits(view: View) -> str:
    rows = [(row.reason, text.count(row.exits), text.count(row.recent)) for row in summary.exits(view)]
    none = "None so far." if view.exits else "Not known."
    return _plain("exits", "Exits of workers", ("Reason", "All", "Just now"), rows, none)


def _plain(name: str, title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], none: str) -> str:
    columns = "".join(
        f'<th scope="col"{" class=number" if number else ""}>{head}</th>' for number, head in enumerate(heads)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f'<td class="number">{escape(figure)}</td>' for figure in figures)
        + "</tr>"
        for first, *figures in rows
    )
    return (
        f'<section><h2 id="{name}-title">{title}</h2>'
        f'<div class="scroll" role="region" aria-labelledby="{name}-title" tabindex="0"><table><thead><tr>{columns}</tr></thead>'
        f'<tbody class="live" id="{name}-rows">{body or f"<tr><td colspan={len(heads)}>{none}</td></tr>"}</tbody></table></div>'
        "</section>"
    )


def _measured(measured: Iterable[tuple[str, str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(kind)}</td><td class="help">{escape(told)}</td></tr>'
        for name, kind, told in sorted(measured)
    )
    return (
        '<details><summary>What is measured</summary><div class="scroll" role="region" aria-label="Metrics" tabindex="0">'
        '<table><thead><tr><th scope="col">Metric</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _directory(view: View) -> str:
    return f", of the directory {escape(view.server.directory)}" if view.server.directory else ""
