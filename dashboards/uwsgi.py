"""The dashboard uWSGI: what its stats server says, which other servers do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboards.panels import Query, columns, figure, graph, page

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_BY_WORKER: Final = "{{instance}} worker {{worker_id}}"
_STATES: Final = ("busy", "idle", "cheap", "pause", "sig")


def _rate(name: str) -> str:
    return f"sum by (instance, worker_id) (rate({name}{{@}}[$__rate_interval]))"


def build() -> Dashboard:
    return page(
        "wsgi-prom-uwsgi",
        "uWSGI",
        "What uWSGI's stats server says, under the names of uwsgi_exporter. Saturation, exits and requests are on Server and Application.",
        {
            "Server": [
                figure("Stats servers that answer", "Of the instances chosen.", "sum(uwsgi_up{@})"),
                figure("Workers", "Workers that were started, cheap ones included.", "sum(uwsgi_workers{@})"),
                figure(
                    "Longest listen queue",
                    "As uWSGI measures it: TCP sockets alone.",
                    "max(uwsgi_listen_queue_length{@})",
                ),
                figure("Load", "uWSGI's measure of its load: the longest queue.", "max(uwsgi_load{@})"),
                graph(
                    "Workers by state",
                    "A cheap worker was ended to save resources; a paused one is suspended; sig handles a uWSGI signal.",
                    *(Query(f"sum(uwsgi_worker_{state}{{@}})", state) for state in _STATES),
                    stacked=True,
                ),
                graph(
                    "Listen queues",
                    "By socket, and the limit of each.",
                    Query("max by (instance, name) (uwsgi_socket_queue_length{@})", "{{instance}} {{name}}"),
                    Query(
                        "max by (instance, name) (uwsgi_socket_max_queue_length{@})",
                        "{{instance}} {{name}} limit",
                    ),
                ),
                graph(
                    "Queues of uWSGI signals",
                    "Bytes of signals that wait for any worker, and for one.",
                    Query("sum by (instance) (uwsgi_signal_queue_length{@})", "{{instance}}"),
                    Query("sum by (instance, worker_id) (uwsgi_worker_signal_queue_length{@})", _BY_WORKER),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "Locks that are held",
                    "By name. One that stays at 1 is why workers wait.",
                    Query("sum by (instance, name) (uwsgi_lock_held{@})", "{{instance}} {{name}}"),
                    width=8,
                ),
                columns(
                    "Applications",
                    "Their time to load, and how many workers have loaded each.",
                    {
                        "time to load": "max by (instance, mountpoint) (uwsgi_worker_app_startup_time_seconds{@})",
                        "workers": "count by (instance, mountpoint) (uwsgi_worker_app_startup_time_seconds{@})",
                    },
                    units={"time to load": "s"},
                    width=8,
                ),
            ],
            "Workers": [
                graph(
                    "Requests",
                    "Per second.",
                    Query(_rate("uwsgi_worker_requests_total"), _BY_WORKER),
                    unit="reqps",
                    width=8,
                ),
                graph(
                    "Mean response time",
                    "As uWSGI has it: the mean of the last response time and the mean before.",
                    Query(
                        "max by (instance, worker_id) (uwsgi_worker_average_response_time_seconds{@})",
                        _BY_WORKER,
                    ),
                    unit="s",
                    width=8,
                ),
                graph(
                    "Exceptions",
                    "That the application let through, per second.",
                    Query(_rate("uwsgi_worker_exceptions_total"), _BY_WORKER),
                    width=8,
                ),
                graph(
                    "Time in requests",
                    "Seconds per second: 1 is a worker without threads that is always busy.",
                    Query(
                        "sum by (instance, worker_id) (deriv(uwsgi_worker_running_time_seconds{@}[$__rate_interval]))",
                        _BY_WORKER,
                    ),
                    unit="percentunit",
                    width=8,
                ),
                graph(
                    "Resident memory",
                    "After the last request, with memory-report.",
                    Query("max by (instance, worker_id) (uwsgi_worker_rss_bytes{@})", _BY_WORKER),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "Virtual memory",
                    "After the last request, with memory-report.",
                    Query("max by (instance, worker_id) (uwsgi_worker_vsz_bytes{@})", _BY_WORKER),
                    unit="bytes",
                    width=8,
                ),
                graph(
                    "Respawns and harakiris",
                    "How often workers were started again, and how often since a request took too long.",
                    Query(
                        "sum by (instance) (increase(uwsgi_worker_respawn_count_total{@}[$__rate_interval]))",
                        "{{instance}} respawns",
                    ),
                    Query(
                        "sum by (instance) (increase(uwsgi_worker_harakiri_count_total{@}[$__rate_interval]))",
                        "{{instance}} harakiris",
                    ),
                    bars=True,
                    width=8,
                ),
                graph(
                    "Requests since the spawn",
                    "It falls when a worker is recycled (max-requests).",
                    Query("max by (instance, worker_id) (uwsgi_worker_delta_requests{@})", _BY_WORKER),
                    width=8,
                ),
                graph(
                    "Bytes sent",
                    "Per second, headers included.",
                    Query(_rate("uwsgi_worker_transmitted_bytes_total"), _BY_WORKER),
                    unit="Bps",
                    width=8,
                ),
            ],
            "Cores: threads or greenlets": [
                graph(
                    "Busy",
                    "By worker.",
                    Query("sum by (instance, worker_id) (uwsgi_worker_core_busy{@})", _BY_WORKER),
                    width=8,
                ),
                graph(
                    "Requests that no Python served",
                    "Static files, uWSGI's own routing, and what an offload thread sent.",
                    Query(
                        "sum(rate(uwsgi_worker_core_static_requests_total{@}[$__rate_interval]))",
                        "static files",
                    ),
                    Query(
                        "sum(rate(uwsgi_worker_core_routed_requests_total{@}[$__rate_interval]))", "routing"
                    ),
                    Query(
                        "sum(rate(uwsgi_worker_core_offloaded_requests_total{@}[$__rate_interval]))",
                        "offloaded",
                    ),
                    unit="reqps",
                    width=8,
                ),
                graph(
                    "Errors of connections",
                    "On writing to clients and on reading from them, per second.",
                    Query("sum(rate(uwsgi_worker_core_write_errors_total{@}[$__rate_interval]))", "write"),
                    Query("sum(rate(uwsgi_worker_core_read_errors_total{@}[$__rate_interval]))", "read"),
                    width=8,
                ),
            ],
            "Caches, spoolers, daemons, cron": [
                graph(
                    "Hits of caches",
                    "The share of look-ups that found a key.",
                    Query(
                        "sum by (instance, name) (rate(uwsgi_cache_hits{@}[$__rate_interval])) / (sum by (instance, name) "
                        "(rate(uwsgi_cache_hits{@}[$__rate_interval])) + sum by (instance, name) (rate(uwsgi_cache_misses{@}[$__rate_interval])))",
                        "{{instance}} {{name}}",
                    ),
                    unit="percentunit",
                    width=8,
                ),
                graph(
                    "Items of caches, of the limit",
                    "At 1 new keys are refused, or old ones go.",
                    Query(
                        "sum by (instance, name) (uwsgi_cache_items{@}) / sum by (instance, name) (uwsgi_cache_max_items{@})",
                        "{{instance}} {{name}}",
                    ),
                    unit="percentunit",
                    width=8,
                ),
                graph(
                    "Tasks of spoolers",
                    "Done per second.",
                    Query(
                        "sum by (instance, dir) (rate(uwsgi_spooler_tasks_total{@}[$__rate_interval]))",
                        "{{instance}} {{dir}}",
                    ),
                    width=8,
                ),
                graph(
                    "Daemons and cron commands that run",
                    "A daemon at 0 has no process.",
                    Query("min by (instance, command) (uwsgi_daemon_running{@})", "{{instance}} {{command}}"),
                    Query("max by (instance, command) (uwsgi_cron_running{@})", "{{instance}} {{command}}"),
                    width=24,
                ),
            ],
        },
    )
