"""
Each metric with its type, its labels and the query that one asks with it: for docs/metrics.md and `wsgi-prom metrics`.

1. `make docs` compares types and labels with pages that the package renders, and names what differs.
2. In a query, `$name` stands for the metric's name on the page, `$BUSY` for that of `metrics.BUSY`.
"""

from __future__ import annotations

from string import Template
from typing import Final, NamedTuple

from wsgi_prom import metrics as m
from wsgi_prom.merge.names import page_name
from wsgi_prom.server import uwsgi_metrics

_COUNTER: Final = "counter"
_GAUGE: Final = "gauge"
_HISTOGRAM: Final = "histogram"
_SUMMARY: Final = "summary"

# The version of the package that has had the metric first.
_FIRST: Final = "0.1"


class Entry(NamedTuple):
    """
    A metric of the package. *setting* switches it on, *more* maps a setting to the label that it adds.

    *stable*: its name, type and labels change only in a new major version, and its figure keeps its meaning.
    """

    metric: tuple[str, str]
    type: str
    labels: tuple[str, ...]
    asked: str
    stable: bool = True
    setting: str = ""
    more: tuple[str, str] | None = None
    since: str = _FIRST

    @property
    def name(self) -> str:
        """The name on the page."""
        return page_name(self.metric[0], self.type)

    @property
    def unit(self) -> str:
        return next((unit for unit in ("seconds", "bytes") if unit in self.name.split("_")), "")

    @property
    def meaning(self) -> str:
        return self.metric[1]

    @property
    def query(self) -> str:
        """PromQL, about all applications that the server of Prometheus scrapes."""
        return Template(self.asked).substitute(_NAMES, name=self.name)


_ROUTE: Final = ("method", "route")
_PROCESS: Final = ("worker", "role")
_MEAN_BY_ROUTE: Final = "sum by (route) (rate(${name}_sum[5m])) / sum by (route) (rate(${name}_count[5m]))"
_P99_BY_ROUTE: Final = "histogram_quantile(0.99, sum by (le, route) (rate(${name}_bucket[5m])))"
_P99: Final = "histogram_quantile(0.99, sum by (le) (rate(${name}_bucket[5m])))"
_OF_PROCESS: Final = "sum by (role) ($name)"

METRICS: Final = (
    Entry(m.REQUESTS, _COUNTER, (*_ROUTE, "status"), "sum by (route) (rate($name[5m]))"),
    Entry(m.DURATION, _HISTOGRAM, _ROUTE, _P99_BY_ROUTE, more=("status_class", "status_class")),
    Entry(m.FIRST_BYTE, _HISTOGRAM, _ROUTE, _P99_BY_ROUTE, setting="first_byte"),
    Entry(m.CPU, _SUMMARY, _ROUTE, "sum by (route) (rate(${name}_sum[5m]))", setting="cpu"),
    Entry(m.IN_PROGRESS, _GAUGE, (), "sum by (instance) ($name)"),
    Entry(m.EXCEPTIONS, _COUNTER, (*_ROUTE, "exception"), "topk(10, sum by (exception, route) (increase($name[1h])))"),
    Entry(m.ABORTED, _COUNTER, _ROUTE, "sum by (route) (rate($name[5m]))"),
    Entry(m.REQUEST_SIZE, _SUMMARY, _ROUTE, _MEAN_BY_ROUTE),
    Entry(m.RESPONSE_SIZE, _SUMMARY, _ROUTE, _MEAN_BY_ROUTE),
    Entry(m.QUEUE, _HISTOGRAM, (), _P99),
    Entry(m.DROPPED, _COUNTER, ("metric",), "sum by (job, metric) (increase($name[1h]))"),
    Entry(m.ERRORS, _COUNTER, ("stage",), "sum by (job, stage) (increase($name[1h]))"),
    Entry(m.TASKS, _COUNTER, ("state", "task"), "sum by (task, state) (rate($name[5m]))"),
    Entry(m.TASK_DURATION, _HISTOGRAM, ("task",), "histogram_quantile(0.99, sum by (le, task) (rate(${name}_bucket[5m])))"),
    Entry(m.TASKS_IN_PROGRESS, _GAUGE, ("task",), "sum by (task) ($name)"),
    Entry(m.TASK_EXCEPTIONS, _COUNTER, ("exception", "task"), "topk(10, sum by (exception, task) (increase($name[1h])))"),
    Entry(m.WORKERS, _GAUGE, ("state",), "sum by (instance, state) ($name)"),
    Entry(m.WORKERS_TARGET, _GAUGE, (), "$name - on (job, instance) sum by (job, instance) ($WORKERS)"),
    Entry(m.WORKER_CAPACITY, _GAUGE, (), "sum by (job) (rate($WORKER_BUSY[5m])) / sum by (job) ($name)"),
    Entry(m.WORKER_BUSY, _COUNTER, ("worker",), "sum by (job) (rate($name[5m])) / sum by (job) ($WORKER_CAPACITY)"),
    Entry(m.WORKER_REQUESTS, _COUNTER, ("worker",), "sum by (instance, worker) (rate($name[5m]))"),
    Entry(m.WORKER_START, _GAUGE, ("worker",), "time() - $name"),
    Entry(m.HEARTBEAT_AGE, _GAUGE, ("worker",), "max by (instance) ($name)"),
    Entry(m.REQUEST_AGE, _GAUGE, (), "max by (instance) ($name)"),
    Entry(m.WORKER_STARTS, _COUNTER, (), "sum by (instance) (increase($name[1h]))"),
    Entry(m.WORKER_EXITS, _COUNTER, ("reason",), "sum by (instance, reason) (increase($name[1h]))"),
    Entry(m.RELOADS, _COUNTER, (), "sum by (instance) (increase($name[1h]))"),
    Entry(m.LAST_RELOAD, _GAUGE, (), "time() - $name"),
    Entry(m.LISTEN_QUEUE, _GAUGE, ("socket",), "max by (instance, socket) ($name / $LISTEN_QUEUE_LIMIT)"),
    Entry(m.LISTEN_QUEUE_LIMIT, _GAUGE, ("socket",), "max by (instance, socket) ($LISTEN_QUEUE / $name)"),
    Entry(m.LISTEN_QUEUE_SECONDS, _COUNTER, ("socket",), "sum by (job) (rate($name[5m]))"),
    Entry(m.LISTEN_DROPS, _COUNTER, ("socket",), "sum by (instance, socket) (increase($name[5m]))"),
    Entry(m.APP_INFO, _GAUGE, ("app", "framework", "python", "version"), "count by (app, version) ($name)"),
    Entry(m.SERVER_INFO, _GAUGE, ("server", "version", "worker_class"), "count by (server, version) ($name)"),
    Entry(m.PROCESS_CPU, _COUNTER, _PROCESS, "sum by (role) (rate($name[5m]))"),
    Entry(m.PROCESS_CHILDREN_CPU, _COUNTER, _PROCESS, 'sum(rate($name{role="master"}[5m]))'),
    Entry(m.PROCESS_RESIDENT, _GAUGE, _PROCESS, 'max by (instance) ($name{role="worker"})'),
    Entry(m.PROCESS_PROPORTIONAL, _GAUGE, _PROCESS, "sum by (instance) ($name)"),
    Entry(m.PROCESS_VIRTUAL, _GAUGE, _PROCESS, _OF_PROCESS),
    Entry(m.PROCESS_OPEN_FDS, _GAUGE, _PROCESS, "max by (instance) ($name / $PROCESS_MAX_FDS)"),
    Entry(m.PROCESS_MAX_FDS, _GAUGE, _PROCESS, "max by (instance) ($PROCESS_OPEN_FDS / $name)"),
    Entry(m.PROCESS_THREADS, _GAUGE, _PROCESS, _OF_PROCESS),
    Entry(m.PROCESS_START, _GAUGE, _PROCESS, 'time() - max by (instance) ($name{role="master"})'),
    Entry(m.PYTHON_INFO, _GAUGE, ("implementation", "major", "minor", "patchlevel", "version"), "count by (version) ($name)"),
    Entry(m.GC_COLLECTED, _COUNTER, ("worker", "generation"), "sum by (generation) (rate($name[5m]))"),
    Entry(m.GC_UNCOLLECTABLE, _COUNTER, ("worker", "generation"), "sum by (instance) (increase($name[1h]))"),
    Entry(m.GC_COLLECTIONS, _COUNTER, ("worker", "generation"), "sum by (generation) (rate($name[5m]))"),
    Entry(m.BUILD_INFO, _GAUGE, ("version",), "count by (version) ($name)"),
    Entry(m.TARGET_INFO, _GAUGE, ("slot", "application", "directory", "pid", "server"), "count by (application) ($name)"),
    Entry(m.SCRAPE_DURATION, _GAUGE, (), "max by (instance) ($name)"),
    Entry(m.JOINED, _GAUGE, ("role",), "sum by (role) ($name)"),
    Entry(m.SLOTS, _GAUGE, ("state",), "sum by (instance, state) ($name)", stable=False),
    Entry(m.VALUE_BYTES, _GAUGE, (), "max by (instance) ($name)", stable=False),
    Entry(m.DIRECTORY_READABLE, _GAUGE, (), "min by (instance) ($name) == 0"),
    Entry(m.UNREADABLE, _GAUGE, (), "sum by (instance) ($name)"),
    Entry(m.CONFLICTS, _GAUGE, (), "sum by (instance) ($name)", stable=False),
    Entry(m.SCRAPES, _COUNTER, ("code",), "sum by (instance, code) (rate($name[5m]))"),
    Entry(m.SCRAPES_IN_FLIGHT, _GAUGE, (), "max by (instance) ($name)", stable=False),
    Entry(m.REGISTERED, _GAUGE, ("registry",), "min by (registry) ($name)", stable=False),
    Entry(m.CERTIFICATE_EXPIRY, _GAUGE, (), "min by (instance) ($name) - time()"),
    Entry(m.PUSH_READINGS, _COUNTER, ("to", "result"), "sum by (to, result) (rate($name[5m]))", stable=False),
    Entry(m.PUSH_LOST, _COUNTER, ("to",), "sum by (to) (increase($name[1h]))", stable=False),
)  # fmt: skip

_NAMES: Final = {
    constant: entry.name for constant, value in vars(m).items() for entry in METRICS if entry.metric is value
}


def _of_uwsgi() -> tuple[Entry, ...]:
    sections = [uwsgi_metrics.Section((), (uwsgi_metrics.UP,)), *uwsgi_metrics.SECTIONS]
    return tuple(
        Entry(
            (figure.name.removesuffix("_total"), figure.help),
            figure.type,
            section.labels,
            "sum by (instance) (rate($name[5m]))" if figure.type == _COUNTER else "sum by (instance) ($name)",
        )
        for section in sections
        for figure in section.figures
    )


UWSGI: Final = _of_uwsgi()
