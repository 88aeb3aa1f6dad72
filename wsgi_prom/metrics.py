"""
The names and help texts of this package's metrics, and the label values that stand for many others.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# The registry of RFC 9110, 16.1.1, as far as web applications see it: those of RFC 9110 itself, and PATCH (RFC 5789).
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

# The label value of an unregistered method, and of all label sets beyond a metric's limit.
OTHER: Final = "OTHER"

# The label value of a request without a route.
UNMATCHED: Final = "unmatched"

# In characters. An application may use a client's text as a label, and a label set is kept for good.
LONGEST_LABEL: Final = 128

# How the names of all metrics of requests begin: the setting `prefix` goes before them.
OF_REQUESTS: Final = "http_"

REQUESTS: Final = ("http_requests", "Requests, by the status of the response.")
DURATION: Final = (
    "http_request_duration_seconds",
    "Time from the start of a request to the last byte of its response.",
)
FIRST_BYTE: Final = (
    "http_request_first_byte_seconds",
    "Time from the start of a request to the first byte of its response's body.",
)
CPU: Final = (
    "http_request_cpu_seconds",
    "Processor time of the thread that served a request. Absent where requests share a thread: greenlets, uWSGI's async mode.",
)
IN_PROGRESS: Final = ("http_requests_in_progress", "Requests that are being served now.")
EXCEPTIONS: Final = (
    "http_request_exceptions",
    "Exceptions that the application let through to the server, or that its framework answered as an error.",
)
ABORTED: Final = ("http_requests_aborted", "Requests whose response was closed before its end.")
REQUEST_SIZE: Final = ("http_request_size_bytes", "Bytes of the body of a request that the application read.")
RESPONSE_SIZE: Final = ("http_response_size_bytes", "Bytes of the body of a response that were sent.")
QUEUE: Final = (
    "http_request_queue_seconds",
    "Time from the proxy's X-Request-Start or X-Queue-Start header to the application.",
)

# By its help text a metric of requests is told from one that the application has made, whatever their prefix.
HELPS_OF_REQUESTS: Final = frozenset(
    help_text
    for _, help_text in (
        REQUESTS, DURATION, FIRST_BYTE, CPU, IN_PROGRESS, EXCEPTIONS, ABORTED, REQUEST_SIZE, RESPONSE_SIZE, QUEUE
    )
)  # fmt: skip
TAKEN: Final = (
    "the application has metrics of wsgi_prom's names: {}. A sum over such a metric counts each request twice, or one of the two "
    "is not shown"
)
TAKEN_REMEDY: Final = "Set WSGI_PROM_PREFIX, such as WSGI_PROM_PREFIX=shop_, or rename the application's. Then restart: a reload keeps old series"

# The metrics that the setting `disable` may name, by their names on the page. The count of requests is always on.
OPTIONAL: Final = frozenset(
    {
        DURATION[0],
        IN_PROGRESS[0],
        REQUEST_SIZE[0],
        RESPONSE_SIZE[0],
        QUEUE[0],
        EXCEPTIONS[0] + "_total",
        ABORTED[0] + "_total",
    }
)


class Names(NamedTuple):
    """
    What the metrics of requests and their labels are called.

    *other* is the value of an unregistered method, *unmatched* that of a request without a route. *error_type* is empty where
    there is no such label. *metrics* are the names of metrics that are not called as above, by the name above; *dotted* what
    OTLP calls these metrics and their labels, by their names on a page.
    """

    method: str = "method"
    route: str = "route"
    status: str = "status"
    error_type: str = ""
    other: str = OTHER
    unmatched: str = UNMATCHED
    metrics: Mapping[str, str] = MappingProxyType({})
    dotted: Mapping[str, str] = MappingProxyType({})

    def of(self, metric: tuple[str, str]) -> str:
        """Return the name of *metric*, one of the above."""
        return self.metrics.get(metric[0], metric[0])


# By OpenTelemetry's semantic conventions for HTTP metrics 1.44: the duration is stable, the others are in development. A metric
# that the conventions do not have keeps its name; a page has the unit in a name.
_DOTTED: Final = {
    "http_server_request_duration_seconds": "http.server.request.duration",
    "http_server_active_requests": "http.server.active_requests",
    "http_server_request_body_size_bytes": "http.server.request.body.size",
    "http_server_response_body_size_bytes": "http.server.response.body.size",
    "http_request_method": "http.request.method",
    "http_route": "http.route",
    "http_response_status_code": "http.response.status_code",
    "error_type": "error.type",
    # Of WSGI_PROM_LABELS.
    "url_scheme": "url.scheme",
}
_DURATION, _ACTIVE, _RECEIVED, _SENT, _METHOD, _ROUTE, _STATUS, _ERROR, _ = _DOTTED
NAMES: Final = {
    "prometheus": Names(),
    "otel": Names(
        _METHOD, _ROUTE, _STATUS, _ERROR, "_OTHER", "",
        {DURATION[0]: _DURATION, IN_PROGRESS[0]: _ACTIVE, REQUEST_SIZE[0]: _RECEIVED, RESPONSE_SIZE[0]: _SENT},
        _DOTTED,
    ),
}  # fmt: skip
# The first labels of each row that counts requests.
REQUEST_LABELS: Final = frozenset((names.method, names.route, names.status) for names in NAMES.values())

DROPPED: Final = (
    "wsgi_prom_dropped_series",
    "Observations of label sets beyond the limit, counted as OTHER.",
)
ERRORS: Final = ("wsgi_prom_errors", "Failures of wsgi_prom itself, none of which reached the application.")

# Of Celery's workers: hooks/celery.py.
TASKS: Final = (
    "celery_tasks",
    "Tasks of Celery that have ended, by Celery's own name of the state: SUCCESS, FAILURE, RETRY, REJECTED, IGNORED, REVOKED.",
)
TASK_DURATION: Final = (
    "celery_task_duration_seconds",
    "Time that a task of Celery took, each of its attempts; those of a process that was killed are not in it.",
)
TASKS_IN_PROGRESS: Final = ("celery_tasks_in_progress", "Tasks of Celery that run now.")
TASK_EXCEPTIONS: Final = ("celery_task_exceptions", "Exceptions with which tasks of Celery have failed.")

# Of the server, which the exporter finds out.
WORKERS: Final = (
    "wsgi_workers",
    "Workers by state: booting until the application is loaded, busy with a request or more, stopping once told to end.",
)
WORKERS_TARGET: Final = (
    "wsgi_workers_target",
    "Workers that gunicorn is to have: --workers, changed by TTIN and TTOU; of both arbiters together after USR2.",
)
WORKER_CAPACITY: Final = (
    "wsgi_worker_capacity",
    "Requests that the workers can serve at a time: workers by threads or greenlets.",
)
WORKER_BUSY: Final = (
    "wsgi_worker_busy_seconds",
    "Seconds that the requests took which a worker has served, each when it ends.",
)
WORKER_REQUESTS: Final = ("wsgi_worker_requests", "Requests that a worker has served.")
WORKER_START: Final = (
    "wsgi_worker_start_time_seconds",
    "When the process of a worker started, since the epoch.",
)
HEARTBEAT_AGE: Final = (
    "wsgi_worker_heartbeat_age_seconds",
    "Time since the last heartbeat of a worker of gunicorn; an idle sync worker has two per timeout. Absent where workers drop root.",
)
REQUEST_AGE: Final = (
    "wsgi_request_age_seconds",
    "How long ago the oldest request in progress began. Absent while requests overlap in a worker.",
)
WORKER_STARTS: Final = ("wsgi_worker_starts", "Processes that were started as workers.")
WORKER_EXITS: Final = (
    "wsgi_worker_exits",
    "Workers that have ended, by reason; those of uWSGI that were killed are counted when the next one starts.",
)
RELOADS: Final = (
    "wsgi_reloads",
    "Reloads of the server after which a worker has started: gunicorn's HUP and USR2; uWSGI's of its master or its workers.",
)
LAST_RELOAD: Final = (
    "wsgi_last_reload_timestamp_seconds",
    "When the last of these reloads began, since the epoch. Absent before the first.",
)
LISTEN_QUEUE: Final = (
    "wsgi_listen_queue",
    "Connections that wait to be accepted, as the kernel counts them.",
)
LISTEN_QUEUE_LIMIT: Final = ("wsgi_listen_queue_limit", "Connections that may wait: the server's backlog.")
LISTEN_QUEUE_SECONDS: Final = (
    "wsgi_listen_queue_seconds",
    "Seconds that connections waited to be accepted, all together, sampled five times a second while an exporter runs.",
)
LISTEN_DROPS: Final = (
    "wsgi_listen_drops",
    "Connections that the kernel refused since the queue was full. Absent where it does not count them.",
)
APP_INFO: Final = (
    "wsgi_app_info",
    "The application of the workers that live, its version, and the Python and the framework that it uses; two during a reload.",
)
SERVER_INFO: Final = ("wsgi_server_info", "The server, its version and its worker class.")

# Of the server's processes. The names are the client library's, as far as it has one.
PROCESS_CPU: Final = (
    "process_cpu_seconds",
    "User and system CPU time of a process and of those that had its slot and role before. What a process uses after the exporter has last looked at it is not counted.",
)
PROCESS_CHILDREN_CPU: Final = (
    "process_children_cpu_seconds",
    "User and system CPU time of the children of a process that have ended: for the master, of all its ended workers.",
)
PROCESS_RESIDENT: Final = ("process_resident_memory_bytes", "Resident memory, with all pages that it shares.")
PROCESS_PROPORTIONAL: Final = (
    "process_proportional_memory_bytes",
    "Resident memory, with its share of each page that it shares (PSS), read once a minute: the sum is what the server takes.",
)
PROCESS_VIRTUAL: Final = ("process_virtual_memory_bytes", "Virtual memory.")
PROCESS_OPEN_FDS: Final = ("process_open_fds", "Open file descriptors.")
PROCESS_MAX_FDS: Final = ("process_max_fds", "File descriptors that may be open at once.")
PROCESS_THREADS: Final = ("process_threads", "Threads.")
PROCESS_START: Final = (
    "process_start_time_seconds",
    "When the process started, since the epoch; of several, the one that started last.",
)
PYTHON_INFO: Final = (
    "python_info",
    "The Python that runs the server's workers. Absent where no hook has started the exporter.",
)
GC_COLLECTED: Final = (
    "python_gc_objects_collected",
    "Objects that garbage collections have freed, as a worker has seen at its last request; at most once a second.",
)
GC_UNCOLLECTABLE: Final = (
    "python_gc_objects_uncollectable",
    "Objects that garbage collections have found and could not free.",
)
GC_COLLECTIONS: Final = ("python_gc_collections", "Garbage collections, by generation.")

# The exporter's own metrics, which are in no slot.
BUILD_INFO: Final = ("wsgi_prom_build_info", "The version of wsgi_prom that answers.")
TARGET_INFO: Final = (
    "wsgi_prom_target_info",
    "Whose metrics these are: the application, its server, the pid of the server's master, the shared directory; a worker's slot on its own page.",
)
SCRAPE_DURATION: Final = (
    "wsgi_prom_scrape_duration_seconds",
    "Time that this scrape took to read and merge.",
)
JOINED: Final = (
    "wsgi_prom_joined_processes",
    "Processes that live, are no web workers, and have joined (wsgi_prom.join), with those that they forked and that record.",
)
SLOTS: Final = ("wsgi_prom_slots", "Slots of the shared directory, by whether a living process holds them.")
VALUE_BYTES: Final = ("wsgi_prom_value_bytes", "Bytes of values that this scrape read.")
DIRECTORY_READABLE: Final = (
    "wsgi_prom_directory_readable",
    "Whether the shared directory could be read; if not (0), counters are those of the last scrape that could.",
)
UNREADABLE: Final = (
    "wsgi_prom_unreadable_files",
    "Files that this scrape left out since they could not be read.",
)
CONFLICTS: Final = (
    "wsgi_prom_conflicting_metrics",
    "Metrics that this scrape left out since another has the same name, or shows beside another one of that name.",
)
SCRAPES: Final = (
    "wsgi_prom_scrapes",
    "Scrapes that this exporter has answered, by the status code; from 0 when the exporter starts.",
)
SCRAPES_IN_FLIGHT: Final = (
    "wsgi_prom_scrapes_in_flight",
    "Scrapes that the exporter is answering now, this one included.",
)
REGISTERED: Final = (
    "wsgi_prom_registered",
    "Whether the targets are registered where WSGI_PROM_SD says: in a file, in etcd. Absent without it.",
)
CERTIFICATE_EXPIRY: Final = (
    "wsgi_prom_certificate_expiry_timestamp_seconds",
    "When the certificate that the exporter serves expires, since the epoch. Absent without TLS.",
)
PUSH_READINGS: Final = (
    "wsgi_prom_push_readings",
    "Readings that `wsgi-prom push` has sent, or could not send; in what it sends, from 0 when it starts.",
)
PUSH_LOST: Final = (
    "wsgi_prom_push_lost_samples",
    "Samples that `wsgi-prom push` could not send, or whose receiver has refused them.",
)
