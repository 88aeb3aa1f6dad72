"""The dashboard Server: first whether it is full, then why workers ended, what memory they use, and the exporter itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.panels import Query, columns, figure, graph, page

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

_UTILISATION = "rate(wsgi_worker_busy_seconds_total{@}[$__rate_interval])"


def build() -> Dashboard:
    return page(
        "wsgi-prom-server",
        "Server",
        "Is the server full, do its workers die, and what memory do they take?",
        {
            "Saturation": [
                figure(
                    "Utilisation",
                    "The share of all workers, threads or greenlets that served requests. Random arrivals queue long before 1: plan for 0.6 to 0.7.",
                    f"sum({_UTILISATION}) / sum(wsgi_worker_capacity{{@}})",
                    unit="percentunit",
                    limits=(0.7, 0.9),
                ),
                figure(
                    "Connections that wait",
                    "The mean length of all listen queues, looked at five times a second.",
                    "sum(rate(wsgi_listen_queue_seconds_total{@}[$__rate_interval]))",
                    limits=(1, 10),
                ),
                figure(
                    "Connections dropped",
                    "Attempts to connect in the time shown that found a queue full.",
                    "sum(increase(wsgi_listen_drops_total{@}[$__range]))",
                    limits=(1,),
                ),
                figure(
                    "Oldest request",
                    "How long ago the oldest request in progress began. Absent while requests overlap in a worker.",
                    "max(wsgi_request_age_seconds{@})",
                    unit="s",
                    limits=(10, 60),
                ),
                graph(
                    "Utilisation",
                    "Requests count when they end: a worker that hangs shows in the requests in progress alone.",
                    Query(
                        f"sum by (instance) ({_UTILISATION}) / sum by (instance) (wsgi_worker_capacity{{@}})",
                        "{{instance}}",
                    ),
                    Query(
                        "sum by (instance) (http_requests_in_progress{@}) / sum by (instance) (wsgi_worker_capacity{@})",
                        "{{instance}} now",
                    ),
                    unit="percentunit",
                    limits=(0.7, 0.9),
                ),
                graph(
                    "Workers by state",
                    "With threads, a worker is busy with one request or more. The target is gunicorn's.",
                    Query("sum by (state) (wsgi_workers{@})", "{{state}}"),
                    stacked=True,
                ),
                graph(
                    "Connections that wait",
                    "The mean length of each listen queue, and the backlog above which connections are dropped.",
                    Query(
                        "sum by (instance, socket) (rate(wsgi_listen_queue_seconds_total{@}[$__rate_interval]))",
                        "{{instance}} {{socket}}",
                    ),
                    width=8,
                ),
                graph(
                    "Wait for a worker",
                    "How long a connection waits to be accepted: the mean queue by the rate of requests. No duration of the application has this time.",
                    Query(
                        "sum by (instance) (rate(wsgi_listen_queue_seconds_total{@}[$__rate_interval])) "
                        "/ sum by (instance) (rate(http_requests_total{@}[$__rate_interval]))",
                        "{{instance}}",
                    ),
                    unit="s",
                    limits=(0.1,),
                    width=8,
                ),
                graph(
                    "Share of the backlog in use",
                    "At 1 the kernel drops connections.",
                    Query(
                        "max by (instance, socket) (wsgi_listen_queue{@} / wsgi_listen_queue_limit{@})",
                        "{{instance}} {{socket}}",
                    ),
                    unit="percentunit",
                    width=8,
                ),
                graph(
                    "Connections dropped",
                    "Each client tries several times. Absent for unix sockets, and for uWSGI unless it has no-defer-accept.",
                    Query(
                        "sum by (instance, socket) (increase(wsgi_listen_drops_total{@}[$__rate_interval]))",
                        "{{instance}} {{socket}}",
                    ),
                    bars=True,
                ),
                graph(
                    "Oldest request",
                    "A request that does not end. Long polling and WebSockets show here too.",
                    Query("max by (instance) (wsgi_request_age_seconds{@})", "{{instance}}"),
                    unit="s",
                ),
            ],
            "Exits and restarts": [
                graph(
                    "Exits of workers by reason",
                    "SIGKILL is most often the OOM killer; timeout and harakiri are the server's own. Under uWSGI, unknown is any signal.",
                    Query(
                        "sum by (reason) (increase(wsgi_worker_exits_total{@}[$__rate_interval]))",
                        "{{reason}}",
                    ),
                    bars=True,
                    stacked=True,
                ),
                graph(
                    "Starts of workers and reloads",
                    "More starts than exits: the server grows.",
                    Query("sum(increase(wsgi_worker_starts_total{@}[$__rate_interval]))", "starts"),
                    Query("sum(increase(wsgi_reloads_total{@}[$__rate_interval]))", "reloads"),
                    bars=True,
                ),
                graph(
                    "Age of the youngest and the oldest worker",
                    "The youngest is often young where workers are recycled or die.",
                    Query(
                        "time() - max by (instance) (wsgi_worker_start_time_seconds{@})",
                        "{{instance}} youngest",
                    ),
                    Query(
                        "time() - min by (instance) (wsgi_worker_start_time_seconds{@})",
                        "{{instance}} oldest",
                    ),
                    unit="s",
                ),
                columns(
                    "Versions",
                    "The application of each instance; two during a reload.",
                    {"instances": "count by (app, version, framework, python) (wsgi_app_info{@})"},
                    width=12,
                ),
            ],
            "Memory and processors": [
                graph(
                    "Memory by role",
                    "With each process's share of shared pages (PSS): the sum is what the server takes.",
                    Query("sum by (role) (process_proportional_memory_bytes{@})", "{{role}}"),
                    unit="bytes",
                    stacked=True,
                ),
                graph(
                    "Memory of the largest worker",
                    "Resident memory. It rises without end where the application leaks.",
                    Query(
                        'max by (instance) (process_resident_memory_bytes{@, role="worker"})', "{{instance}}"
                    ),
                    unit="bytes",
                ),
                graph(
                    "Processors by role",
                    "Processor seconds per second. Near the number of processors, more workers do not help.",
                    Query("sum by (role) (rate(process_cpu_seconds_total{@}[$__rate_interval]))", "{{role}}"),
                    stacked=True,
                    width=8,
                ),
                graph(
                    "Open files, of the limit",
                    "The process that has used the largest share of its file descriptors.",
                    Query("max by (instance) (process_open_fds{@} / process_max_fds{@})", "{{instance}}"),
                    unit="percentunit",
                    width=8,
                ),
                graph(
                    "Garbage collections of the oldest generation",
                    "Full collections stop a worker for as long as its heap is large.",
                    Query(
                        'sum by (instance) (rate(python_gc_collections_total{@, generation="2"}[$__rate_interval]))',
                        "{{instance}}",
                    ),
                    unit="ops",
                    width=8,
                ),
            ],
            "The exporter": [
                graph(
                    "Time of a scrape",
                    "What it takes to read and merge the workers' figures.",
                    Query("max by (instance) (wsgi_prom_scrape_duration_seconds{@})", "{{instance}}"),
                    unit="s",
                    width=8,
                ),
                graph(
                    "Slots",
                    "A slot is a process that records. Free ones are kept for the next process.",
                    Query("sum by (state) (wsgi_prom_slots{@})", "{{state}}"),
                    stacked=True,
                    width=8,
                ),
                graph(
                    "What went wrong",
                    "All at 0 is well. Failures by stage, label sets beyond the limit by metric, files that cannot be read.",
                    Query(
                        "sum by (stage) (increase(wsgi_prom_errors_total{@}[$__rate_interval]))",
                        "failures: {{stage}}",
                    ),
                    Query(
                        "sum by (metric) (increase(wsgi_prom_dropped_series_total{@}[$__rate_interval]))",
                        "OTHER: {{metric}}",
                    ),
                    Query("sum(wsgi_prom_unreadable_files{@})", "unreadable files"),
                    width=8,
                ),
            ],
        },
    )
