"""
Generate the tables of settings.md from the settings' fields, and metrics.md from pages that the package renders.

`make docs` writes them. `python docs/generate.py --check` writes nothing, and exits with 1 if one is out of date.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from wsgi_prom import metrics
from wsgi_prom.dashboards.catalogue import METRICS, UWSGI
from wsgi_prom.metrics import OPTIONAL
from wsgi_prom.settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.dashboards.catalogue import Entry

HERE: Final = Path(__file__).resolve().parent
_LABELS: Final = {
    "method": "as the client sent it if it is registered (RFC 9110, and `PATCH`), else `OTHER`",
    "route": "the framework's template, such as `/users/<id>`, or what `set_route` was given; `unmatched` if there is none",
    "status": "the status code of the response; `101` for a WebSocket session, which only `http_requests_total` counts",
    "status_class": "`1xx` to `5xx`",
    "exception": "the class of the exception",
    "worker": "the number of the worker's slot",
    "slot": "on a worker's own page: the number of its slot ([discovery.md](discovery.md))",
    "app": "the application as its server names it, such as `myapp:app`",
    "framework": "the framework that is imported, with its version, such as `flask/3.1.3`",
    "state": "of a worker: `booting`, `idle`, `busy`, `stopping`; of a slot: `live`, `free`; of a task: as Celery names it",
    "task": "the name of a task that the application has registered, else `OTHER`",
    "role": "what a process is: `worker`, `master`, `exporter`, `supervisor` (of the exporter), `mule`, `spooler`, `daemon` (another program that uWSGI's master runs), `dirty` (gunicorn's dirty workers), what a process that is no web worker has [joined](processes.md) as, `task` (any other that records)",
    "generation": "of objects that the garbage collector looks at: `0` to `2`, the oldest",
    "socket": "what the server listens on, such as `127.0.0.1:8000` or `unix:/run/app.sock`",
    "to": "where `wsgi-prom push` sends to: `statsd`, `remote_write`, `pushgateway`, `otlp`",
    "result": "`sent` or `failed`",
    "code": "the status code of the exporter's answer",
    "registry": "where targets are registered, as `WSGI_PROM_SD` names it, such as `file:/run/targets/shop.json`",
    "reason": "why a worker ended: the name of a signal, `timeout`, `exit_1` and the like, `max_requests`, `reload`, `boot_error`, `cheaped`, `harakiri`, `stop` (of an arbiter that another has replaced), `unknown`: uWSGI tells of no other signal than SIGSEGV, SIGINT and SIGTERM, and of none that ends a request",
}

_OPTIONAL_MARK: Final = " \\*"

# Run in a process of its own: makes requests until every metric of ours has a value, and prints the page. The first argument
# is the directory; the others are settings to switch on.
# Labels that a page has only where a server runs.
_OF_A_SERVER: Final = {metrics.TARGET_INFO[0]: {"application", "server", "slot", "pid"}}

_PAGE: Final = """
import logging, os, socket, sys, tempfile, time
logging.disable()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from prometheus_client import Counter, REGISTRY
from wsgi_prom import PrometheusMiddleware, metrics, set_route
from wsgi_prom.discovery.announcement import Registered
from wsgi_prom.exporter.page_cache import Pages
from wsgi_prom.exporter.scrapes import Scrapes, certificate
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import reloads
from wsgi_prom.push.sender import Sender, families
from wsgi_prom.push.statsd import Statsd
from wsgi_prom.setting_values import Address
from wsgi_prom.hooks.task_metrics import TaskMetrics
from wsgi_prom.hooks.worker import begin
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.setting_values import Registry
from wsgi_prom.store import locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.joined_role import JoinedRole
from wsgi_prom.store.locks import LockFile

def app(environ, start_response):
    set_route(environ, environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/error":
        raise ValueError
    start_response("200 OK", [])
    return iter([b"body", b""])

def request(path, **more):
    environ = {"PATH_INFO": path, "HTTP_X_REQUEST_START": f"t={time.time()}", **more}
    setup_testing_defaults(environ)
    return measured(environ, lambda *_: None)

measured = PrometheusMiddleware(
    app, label_limit=5, exclude=lambda environ: 1 / 0, **dict.fromkeys(sys.argv[2:], True)
)
for number in range(9):
    list(request(f"/{number}"))
next(iter(aborted := request("/0")))
aborted.close()
try:
    request("/error")
except ValueError:
    pass
# As in a worker of a server, which has replaced another.
begin(booting=False)
reloads.begin()
reloads.count()
time.sleep(1.1)
list(request("/0"))
Counter(*metrics.WORKER_EXITS, ["reason"], registry=None).labels("timeout").inc()
# As in a worker of Celery.
current_slot.add(role := JoinedRole("celery"))
tasks = TaskMetrics()
tasks.begin(1, "myapp.add")
tasks.end(1, "myapp.add", "FAILURE")
tasks.count_exception("myapp.add", ValueError())
heartbeat = tempfile.NamedTemporaryFile(prefix="wgunicorn-", delete=False)
os.unlink(heartbeat.name)
lock_file = LockFile.of(Path(sys.argv[1]))
lock_file.acquire(locks.SERVERS[0])
lock_file.set_number(locks.WORKERS[locks.SERVERS[0]], 3)
web = socket.create_server(("127.0.0.1", 0))
target = Target("myapp:app", "gunicorn", "27.0.1", "sync", 1, (ListeningSocket.of(web.fileno()),))

registered = Registered(None, [Registry("file", "/run/targets/shop.json")])
push = [Sender(Statsd(Address("127.0.0.1", 8125)))]
exporter = lambda: [*Scrapes().families(), *certificate(time.time()), *registered.collect(), *families(push)]

pages = Pages(Path(sys.argv[1]), REGISTRY, target)
pages.sources.watch(pages.path)
# The figures that are not read at each scrape come a while after the first.
deadline, content = time.monotonic() + 30, b""
while metrics.PROCESS_PROPORTIONAL[0].encode() + b"{" not in content and time.monotonic() < deadline:
    content = pages.page(time.monotonic(), more_metrics=exporter).content
    time.sleep(0.1)
sys.stdout.buffer.write(content)
"""


def settings_page(page: str) -> str:
    """Return *page*, the text of settings.md, with each section's table made from the fields."""
    for section in dict.fromkeys(field.metadata["section"] for field in dataclasses.fields(Settings)):
        found = re.search(rf"\n## {section}\n(?:[^|#\n].*\n|\n)*((?:\|.*\n)+)", page)
        if found is None:
            raise ValueError(f"settings.md has no table in a section {section!r}")
        # Variables that the client library reads itself have no field.
        others = [line for line in found[1].splitlines()[2:] if f"| `{PREFIX}" not in line]
        lines = [_line("variable", "default", ""), "|---|---|---|", *_rows(section), *others]
        page = page[: found.start(1)] + "\n".join(lines) + "\n" + page[found.end(1) :]
    return page


def _rows(section: str) -> list[str]:
    return [
        _line(f"`{PREFIX}{field.name.upper()}`", field.metadata["shown"], field.metadata["text"])
        for field in dataclasses.fields(Settings)
        if field.metadata["section"] == section
    ]


def _differences() -> list[str]:
    """Return what the catalogue says otherwise than the pages, each with its switch on, and what of it no page has."""
    shown: dict[str, set[str]] = {}
    wrong = []
    entries = {entry.name: entry for entry in METRICS}
    for switch in ["", *(field.name for field in dataclasses.fields(Settings) if field.default is False)]:
        for name, (kind, labels) in _page(*filter(None, [switch])).items():
            shown.setdefault(name, set()).update(labels)
            entry = entries.get(name)
            if entry is None or entry.type != kind or entry.setting not in {"", switch}:
                wrong.append(f"{name} is a {kind} on the page with {switch or 'the defaults'}")
            elif labels - {
                *entry.labels,
                *([entry.more[1]] if entry.more and entry.more[0] == switch else []),
            }:
                wrong.append(f"{name} has {sorted(labels)} on the page with {switch or 'the defaults'}")
    for name, entry in entries.items():
        known = {*entry.labels, *([entry.more[1]] if entry.more else [])}
        if shown.get(name, set()) | _OF_A_SERVER.get(name, set()) != known:
            wrong.append(f"no page has all labels of {name}: add a request to _PAGE that brings it")
    listed = {entry.metric[0] for entry in METRICS}
    wrong += [
        f"{value[0]} is not in the catalogue"
        for value in vars(metrics).values()
        if type(value) is tuple and value[0] not in listed
    ]
    return wrong


def metrics_page() -> str:
    """Return the text of metrics.md."""
    if wrong := _differences():
        raise ValueError("; ".join(wrong))

    def named(*beginnings: str) -> list[str]:
        ours = ("wsgi_prom_",) if "wsgi_prom_" not in beginnings else ("-",)
        return _table(
            entry
            for entry in METRICS
            if entry.name.startswith(beginnings) and not entry.name.startswith(ours)
        )

    return "\n".join(
        [
            "# Metrics",
            "",
            "What `/metrics` shows beside the metrics of your own. `make docs` writes this page from pages that wsgi_prom makes, and",
            "`tests/test_generated_docs.py` compares it with a server's.",
            "",
            f"Those marked \\* can be left out by `{PREFIX}DISABLE`. `{PREFIX}PREFIX` goes before the names of the first table, and",
            f"`{PREFIX}LABELS` adds labels to those with a route; a scrape adds `job` and `instance` to all. A histogram NAME has the",
            "series `NAME_bucket`, `NAME_count` and `NAME_sum`, a summary the latter two.",
            "",
            'The query is the one to begin with; add `{job="NAME"}` to ask about one application. Name, type, labels and meaning of a *stable* metric',
            "stay as they are until the next major version. `wsgi-prom metrics` prints all this, `--json` for programs.",
            "",
            "## Requests",
            "",
            *named("http_"),
            "",
            "| label | value |",
            "|---|---|",
            *(f"| `{label}` | {meaning} |" for label, meaning in _LABELS.items()),
            "",
            f"Beyond `{PREFIX}LABEL_LIMIT` label sets of a metric, route and exception are `OTHER`.",
            'Each method and route that was seen has `status="500"` and aborted requests at 0 before there are any: `increase()` of Prometheus',
            "does not see the first value of a series, and no alert would tell the first error of a route.",
            f"With `{PREFIX}NAMES=otel` metrics and labels are called as in OpenTelemetry's conventions: [opentelemetry.md](opentelemetry.md).",
            "",
            "## The server",
            "",
            "The share of the server that is in use, over any time: `sum(rate(wsgi_worker_busy_seconds_total[5m])) / sum(wsgi_worker_capacity)`.",
            "The figures of uWSGI's stats server are on the page too, under the names that uwsgi_exporter gives them. Without `stats = ...` the hook",
            "adds one, which only the server's user can read, except where `PROMETHEUS_MULTIPROC_DIR` is set, the master keeps root for workers of",
            "another user, there is no master, or `abstract-socket` is on, whose sockets every user of the host can connect to.",
            "uWSGI with `async`, but for gevent, calls nothing at the end of a worker: each counts as `unknown`, and reloads of its workers are not counted.",
            "A worker is a slot of the shared directory: the worker that takes the place of an ended one goes on with its series.",
            "A gthread worker of gunicorn accepts connections, up to `--worker-connections`, that no thread of it serves yet. No figure",
            "shows these: they wait in the worker's memory, and each request would cost more if the worker told their number.",
            "",
            *named("wsgi_"),
            "",
            "## Processes",
            "",
            "`pip install 'wsgi-prom[processes]'`: psutil reads these figures, in the exporter. Without it they are absent.",
            "",
            '- All workers, however often they are replaced: `sum(rate(process_cpu_seconds_total{role="worker"}[5m]))`.',
            "- The memory of the whole server: `sum(process_proportional_memory_bytes)`. Forked workers share pages, which the sum of",
            "  `process_resident_memory_bytes` has as often as there are workers.",
            "- A process that ends takes with it what it used since it was last looked at: 2 s at most, once a scrape has seen it.",
            '  Of workers that live for less than a scrape interval, `process_children_cpu_seconds_total{role="master"}` has all.',
            "- A worker counts its garbage collections when it serves a request, once a second at most; those of other processes are absent.",
            "- Mules, spoolers, dirty workers and daemons without a slot are one series for each role, with the sum of their figures.",
            "- Where root starts a server whose workers drop to another user, the kernel hides the PSS of processes that have changed",
            "  their user, and before Linux 6.2 their descriptors. Processes in another pid namespace (a sidecar's view of a pod) are absent.",
            "",
            *named("process_", "python_"),
            "",
            "## Tasks of Celery",
            "",
            "With [wsgi_prom.hooks.celery](processes.md). An attempt that is tried again is one more `RETRY`, but not one whose process was killed",
            "and that goes back to the queue (`reject_on_worker_lost`).",
            "",
            *named("celery_"),
            "",
            "## uWSGI's stats server",
            "",
            "What uWSGI itself says, under uwsgi_exporter's names, so that its dashboards work. Absent under other servers, and for what uWSGI does",
            "not have or does not know: caches, spoolers, the queue of a unix socket. They begin again at 0 when uWSGI's master reloads.",
            "",
            *_table(UWSGI),
            "",
            "## wsgi_prom itself",
            "",
            *named("wsgi_prom_"),
            "",
        ]
    )


def _table(entries: Iterable[Entry]) -> list[str]:
    head = ("metric", "type", "unit", "labels", "meaning", "query", "since", "stability")
    return [_line(*head), "|" + "---|" * len(head)] + [_row(entry) for entry in entries]


def _row(entry: Entry) -> str:
    labels = ", ".join(f"`{label}`" for label in entry.labels)
    if entry.more:
        labels += f"; with `{PREFIX}{entry.more[0].upper()}` `{entry.more[1]}`"
    meaning = entry.meaning + (f" Only with `{PREFIX}{entry.setting.upper()}`." if entry.setting else "")
    mark = _OPTIONAL_MARK if entry.name in OPTIONAL else ""
    return _line(
        f"`{entry.name}`{mark}", entry.type, entry.unit, labels, meaning, f"`{entry.query}`", entry.since,
        "stable" if entry.stable else "may change",
    )  # fmt: skip


def _line(*cells: str) -> str:
    """Return a line of a table, with one blank in an empty cell."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _page(*switches: str) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each metric of a page, by its name."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-c", _PAGE, directory, *switches], check=True, stdout=subprocess.PIPE, text=True
        )
    found = {}
    for family in text_string_to_metric_families(done.stdout):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
        found[name] = family.type, labels
    return found


def main(*options: str) -> int:
    """Write the pages that are out of date; with --check, name them and return 1."""
    pages = {
        HERE / "settings.md": settings_page((HERE / "settings.md").read_text()),
        HERE / "metrics.md": metrics_page(),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in options:
            sys.stderr.write(f"{path} is out of date: run make docs\n")
        else:
            path.write_text(pages[path])
    return int("--check" in options and bool(stale))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
