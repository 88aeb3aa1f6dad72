"""
The metrics of uWSGI's stats server: their names, and how each is read from its JSON.

1. Names, types and labels are those of uwsgi_exporter (github.com/timonwong/uwsgi_exporter, pkg/collector/exporter.go)
   less `stats_uri`, so that its dashboards go on working. They are its contract, and so are not in `metrics.py`.
2. A figure that uWSGI does not know or counts wrong is corrected or left out, never shown as 0.
3. A field that is missing or of another type has no value; nothing raises.
4. Nothing of a request is read: neither `cores[].vars` nor `cores[].req_info`.

What is said of uWSGI was seen on 2.0.31 and in its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Object = dict[str, Any]
    Read = Callable[[Object], float | None]


# The types of JSON's numbers; bool, a kind of int, is another.
_NUMBERS: Final = frozenset({int, float})


def number(value: Any) -> float | None:
    """Return a number of the JSON, None if it is none. uWSGI prints negative numbers as 2**64 less."""
    return value if type(value) in _NUMBERS and 0 <= value < 2**63 else None


def objects(found: Object, name: str) -> list[Object]:
    value = found.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def identity(found: Object) -> int | None:
    """Return the id of an object. A worker that `cheaper` has not started yet has id 0."""
    value = number(found.get("id"))
    return None if value is None else int(value)


def _seconds(name: str) -> Read:
    """Read microseconds."""
    return lambda found: None if (value := number(found.get(name))) is None else value / 1e6


def _measured(name: str) -> Read:
    """Read a figure that is 0 as long as uWSGI has not measured it."""
    return lambda found: number(found.get(name)) or None


def _queue(name: str) -> Read:
    """
    Read a figure of a socket whose queue uWSGI asks the kernel for.

    Of unix sockets it does not, and says 0 of 0 (master_check_listen_queue of core/master.c; 3 connections waited).
    """
    return lambda socket: number(socket.get(name)) if number(socket.get("max_queue")) else None


def _longest_queue(name: str) -> Read:
    """Read a figure that is the longest queue of all sockets, if uWSGI knows them all."""

    def read(stats: Object) -> float | None:
        sockets = objects(stats, "sockets")
        measured = [socket.get("name") for socket in sockets if number(socket.get("max_queue"))]
        known = bool(sockets) and all(socket.get("name") in measured for socket in sockets)
        return number(stats.get(name)) if known else None

    return read


def _respawns(worker: Object) -> float | None:
    """Return how often a worker was spawned again: uWSGI counts its first start too (uwsgi_respawn_worker)."""
    spawned = number(worker.get("respawn_count"))
    return None if spawned is None else max(spawned - 1, 0.0)


def _status(status: str) -> Read:
    """Tell whether a worker's status is *status*; that of a worker that handles a uWSGI signal is `sig` and its number."""

    def read(worker: Object) -> float | None:
        found = worker.get("status")
        if not isinstance(found, str):
            return None
        return float(found.rstrip("0123456789") == status)

    return read


def _count(name: str) -> Read:
    return lambda found: float(len(value)) if isinstance(value := found.get(name), list) else None


def _runs(found: Object) -> float | None:
    """Tell whether there is a process: uWSGI writes 0 or -1 where there is none."""
    pid = found.get("pid")
    return None if isinstance(pid, bool) or not isinstance(pid, int) else float(pid > 0)


def _started(stats: Object) -> float | None:
    if not isinstance(stats.get("workers"), list):
        return None
    return float(sum(bool(identity(worker)) for worker in objects(stats, "workers")))


class Figure(NamedTuple):
    """
    A metric: its name and type as a page in the text format shows them, its help text, and where its value comes from: a field,
    or what a function makes of the object.
    """

    name: str
    type: str
    help: str
    read: Read | str


class Section(NamedTuple):
    """The metrics of objects of one kind, and their labels."""

    labels: tuple[str, ...]
    figures: tuple[Figure, ...]


UP: Final = Figure("uwsgi_up", "gauge", "Whether uWSGI's stats server answered.", lambda _stats: 1.0)

# Without listen_queue_errors: uWSGI has no code that counts them.
SERVER: Final = Section((), (
    Figure("uwsgi_listen_queue_length", "gauge", "Connections in the longest listen queue.", _longest_queue("listen_queue")),
    Figure("uwsgi_load", "gauge", "uWSGI's measure of its load: the longest listen queue.", _longest_queue("load")),
    Figure("uwsgi_signal_queue_length", "gauge", "Bytes of uWSGI signals that wait for any worker.", "signal_queue"),
    Figure("uwsgi_workers", "gauge", "Workers that were started, cheap ones included.", _started),
))  # fmt: skip

SOCKETS: Final = Section(("name", "proto"), (
    Figure("uwsgi_socket_queue_length", "gauge", "Connections in the socket's listen queue.", _queue("queue")),
    Figure("uwsgi_socket_max_queue_length", "gauge", "Limit of the socket's listen queue.", _queue("max_queue")),
    Figure("uwsgi_socket_shared", "gauge", "Whether it is a shared socket.", "shared"),
    Figure("uwsgi_socket_can_offload", "gauge", "Whether the socket can offload.", "can_offload"),
))  # fmt: skip

# Memory is 0 without memory-report, before a worker's first request and of a cheap worker.
WORKERS: Final = Section(("worker_id",), (
    Figure("uwsgi_worker_accepting", "gauge", "Whether the worker accepts requests.", "accepting"),
    Figure("uwsgi_worker_delta_requests", "gauge", "Requests since the worker was spawned.", "delta_requests"),
    Figure("uwsgi_worker_signal_queue_length", "gauge", "Bytes of uWSGI signals that wait for the worker.", "signal_queue"),
    Figure("uwsgi_worker_rss_bytes", "gauge", "Resident memory after the last request.", _measured("rss")),
    Figure("uwsgi_worker_vsz_bytes", "gauge", "Virtual memory after the last request.", _measured("vsz")),
    Figure("uwsgi_worker_running_time_seconds", "gauge", "Time spent in requests that have ended.", _seconds("running_time")),
    Figure("uwsgi_worker_last_spawn_time_seconds", "gauge", "Time of the last spawn, since the epoch.", _measured("last_spawn")),
    Figure("uwsgi_worker_average_response_time_seconds", "gauge", "Mean of the last response time and the mean before it.", _seconds("avg_rt")),
    Figure("uwsgi_worker_busy", "gauge", "Whether the worker is busy.", _status("busy")),
    Figure("uwsgi_worker_idle", "gauge", "Whether the worker is idle.", _status("idle")),
    Figure("uwsgi_worker_cheap", "gauge", "Whether the worker was ended to save resources.", _status("cheap")),
    Figure("uwsgi_worker_pause", "gauge", "Whether the worker is suspended.", _status("pause")),
    Figure("uwsgi_worker_sig", "gauge", "Whether the worker handles a uWSGI signal.", _status("sig")),
    Figure("uwsgi_worker_requests_total", "counter", "Requests.", "requests"),
    Figure("uwsgi_worker_exceptions_total", "counter", "Exceptions that the application let through.", "exceptions"),
    Figure("uwsgi_worker_harakiri_count_total", "counter", "Times that harakiri ended the worker.", "harakiri_count"),
    Figure("uwsgi_worker_signals_total", "counter", "uWSGI signals that the worker handled.", "signals"),
    Figure("uwsgi_worker_respawn_count_total", "counter", "Times that the worker was spawned again.", _respawns),
    Figure("uwsgi_worker_transmitted_bytes_total", "counter", "Bytes sent, headers included.", "tx"),
    Figure("uwsgi_worker_apps", "gauge", "Applications that the worker has loaded.", _count("apps")),
    Figure("uwsgi_worker_cores", "gauge", "Threads or greenlets of the worker.", _count("cores")),
))  # fmt: skip

APPS: Final = Section(("worker_id", "app_id", "mountpoint", "chdir"), (
    Figure("uwsgi_worker_app_startup_time_seconds", "gauge", "Time that the application took to load.", "startup_time"),
    Figure("uwsgi_worker_app_requests_total", "counter", "Requests.", "requests"),
    Figure("uwsgi_worker_app_exceptions_total", "counter", "Exceptions that the application let through.", "exceptions"),
))  # fmt: skip

CORES: Final = Section(("worker_id", "core_id"), (
    Figure("uwsgi_worker_core_busy", "gauge", "Whether the core serves a request.", "in_request"),
    Figure("uwsgi_worker_core_requests_total", "counter", "Requests.", "requests"),
    Figure("uwsgi_worker_core_static_requests_total", "counter", "Requests for static files.", "static_requests"),
    Figure("uwsgi_worker_core_routed_requests_total", "counter", "Requests that uWSGI's routing answered.", "routed_requests"),
    Figure("uwsgi_worker_core_offloaded_requests_total", "counter", "Requests handed to an offload thread.", "offloaded_requests"),
    Figure("uwsgi_worker_core_write_errors_total", "counter", "Errors on writing to clients.", "write_errors"),
    Figure("uwsgi_worker_core_read_errors_total", "counter", "Errors on reading from clients.", "read_errors"),
))  # fmt: skip

# The first three are counters. OpenMetrics allows no counter without _total, and dashboards ask for these names.
CACHES: Final = Section(("name",), (
    Figure("uwsgi_cache_hits", "untyped", "Keys that were found, a counter.", "hits"),
    Figure("uwsgi_cache_misses", "untyped", "Keys that were not found, a counter.", "miss"),
    Figure("uwsgi_cache_full", "untyped", "Times that the cache was full, a counter.", "full"),
    Figure("uwsgi_cache_items", "gauge", "Items in the cache.", "items"),
    Figure("uwsgi_cache_max_items", "gauge", "Limit of items in the cache.", "max_items"),
))  # fmt: skip

SPOOLERS: Final = Section(("spooler_id", "dir"), (
    Figure("uwsgi_spooler_running", "gauge", "Whether the spooler works on a task.", "running"),
    Figure("uwsgi_spooler_tasks_total", "counter", "Tasks done since the spooler was spawned.", "tasks"),
    Figure("uwsgi_spooler_respawns_total", "counter", "Times that the spooler was spawned again.", "respawns"),
))  # fmt: skip

# Without respawns: uWSGI writes 0 where there are some (`respawns ? 0 : respawns` in core/master_utils.c).
DAEMONS: Final = Section(("daemon_id", "command"), (
    Figure("uwsgi_daemon_running", "gauge", "Whether the attached daemon has a process.", _runs),
))  # fmt: skip

CRONS: Final = Section(("cron_id", "command"), (
    Figure("uwsgi_cron_running", "gauge", "Whether the cron command runs.", _runs),
    Figure("uwsgi_cron_start_time_seconds", "gauge", "Start of the running cron command, since the epoch.", _measured("started_at")),
))  # fmt: skip

LOCKS: Final = Section(("name",), (
    Figure("uwsgi_lock_held", "gauge", "Locks of this name that a process holds.", "held"),
))  # fmt: skip

SECTIONS: Final = (SERVER, SOCKETS, WORKERS, APPS, CORES, CACHES, SPOOLERS, DAEMONS, CRONS, LOCKS)
