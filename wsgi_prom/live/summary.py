"""The view of a server in a few lines: what stands above the tables, in the terminal and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.live import text

if TYPE_CHECKING:
    from wsgi_prom.live.view import ExitRow, QueueRow, Server, View


def about(server: Server) -> list[str]:
    """Return what the server is, in words; nothing for what is not known."""
    words = [
        f"{server.server} {server.server_version}".strip(),
        server.worker_class,
        server.framework.replace("/", " "),
        f"Python {server.python}" if server.python else "",
        ", ".join(f"pid {pid}" for pid in server.pids),
    ]
    return [word for word in words if word]


def name(server: Server) -> str:
    version = f" {server.application_version}" if server.application_version else ""
    return (server.application or "An application without a name") + version


def workers(view: View) -> str:
    """Return how many workers do what."""
    found = [f"{number} {state}" for state, number in view.capacity.workers.items() if number]
    return ", ".join(found) or text.UNKNOWN


def load(view: View) -> str:
    """Return the average number of requests in progress, and of how many that can be."""
    capacity = view.capacity
    if capacity.load is None or capacity.capacity is None:
        return text.rate(capacity.load)
    return f"{text.rate(capacity.load)} of {text.count(capacity.capacity)}"


def queue(row: QueueRow) -> str:
    """Return the length of a listen queue and its limit, and the connections that were dropped."""
    length = text.count(row.length)
    if row.limit is not None:
        length += f" of {text.count(row.limit)}"
    return f"{length}, {text.count(row.drops)} dropped" if row.drops else length


def exits(view: View) -> list[ExitRow]:
    """Return the reasons for which workers have ended."""
    return [row for row in view.exits if row.exits]


def period(view: View) -> str:
    """Return the time that the rates are over."""
    if view.seconds is None:
        return "Rates follow with the second reading; quantiles are of all requests so far."
    return f"Rates and quantiles are of the last {max(round(view.seconds), 1)} s."
