"""How busy a server's workers are, how many it starts, and why they end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from array import array
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import live
import pytest
import servers
from users import needs_root

from wsgi_prom.merge.readers import Layout, Reading
from wsgi_prom.request.row_schemas import Schemas
from wsgi_prom.server.workers import Workers
from wsgi_prom.settings import Settings
from wsgi_prom.store import schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.store.schemas import Schema

STATES = ("booting", "idle", "busy", "stopping")


def states(server: live.LiveServer) -> dict[str, float]:
    found = live.labelled(server.samples(), "wsgi_workers")
    return {dict(labels)["state"]: value for labels, value in found.items()}


def by_label(samples: live.Samples, name: str) -> dict[str, float]:
    """Return the samples of *name* by the value of their only label."""
    return {
        value: count
        for labels, count in live.labelled(samples, name).items()
        for value in dict(labels).values()
    }


class Kind(NamedTuple):
    """A server of two workers, its options, what it can serve at a time, and its class of workers if it has one."""

    name: str
    options: tuple[str, ...]
    capacity: int
    worker_class: str | None


KINDS = {
    "sync": Kind("gunicorn sync", (), 2, "sync"),
    "gthread": Kind("gunicorn sync", ("--threads", "4"), 8, "gthread"),
    "gevent": Kind(
        "gunicorn sync", ("--worker-class", "gevent", "--worker-connections", "50"), 100, "gevent"
    ),
    "uwsgi threads": Kind("uwsgi threads", (), 8, None),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def server(kind: Kind) -> Iterator[live.LiveServer]:
    with servers.start(kind.name, *kind.options, workers=2) as started:
        live.eventually(lambda: states(started).get("idle"), lambda idle: idle == 2)
        yield started


def test_a_worker_is_busy_while_it_serves(server: live.LiveServer) -> None:
    """One of two workers is busy during a request of 3 s, which is as old as it is, and counts 3 busy seconds when it ends."""
    before = server.samples()
    thread = threading.Thread(target=server.get, args=("/sleep?s=3",))
    began = time.monotonic()
    thread.start()
    live.eventually(lambda: states(server)["busy"], lambda busy: busy == 1)
    time.sleep(1)
    during, asked = server.samples(), time.monotonic()
    thread.join()
    live.eventually(lambda: states(server)["idle"], lambda idle: idle == 2)
    after = server.samples()
    age = servers.value(during, "wsgi_request_age_seconds")
    assert age is not None
    assert 1 <= age <= asked - began
    spent = sum(by_label(after, "wsgi_worker_busy_seconds_total").values())
    assert pytest.approx(3, rel=0.05) == spent - sum(
        by_label(before, "wsgi_worker_busy_seconds_total").values()
    )
    assert servers.value(after, "wsgi_request_age_seconds") == 0
    assert [] == servers.gone_back(before, during) + servers.gone_back(during, after)


def test_the_capacity_is_workers_by_threads_or_greenlets(kind: Kind, server: live.LiveServer) -> None:
    """Two workers serve at a time what both of them can, and the server is named with its version and worker class."""
    samples = server.samples()
    assert kind.capacity == servers.value(samples, "wsgi_worker_capacity")
    ((labels, value),) = live.labelled(samples, "wsgi_server_info").items()
    assert (1, kind.name.split(maxsplit=1)[0], kind.worker_class) == (
        value,
        dict(labels)["server"].lower(),
        dict(labels).get("worker_class"),
    )
    assert dict(labels)["version"][0].isdigit()


KILLS = 8


@pytest.mark.parametrize("name", servers.BOTH)
def test_workers_and_their_figures_stay_the_same_series_when_they_are_replaced(name: str) -> None:
    """Workers that are killed one after the other leave two series for each figure, each start is counted, and no busy second is lost."""
    with servers.start(name, workers=2) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 2)
        scrapes = servers.Scraper(server)
        for _ in range(KILLS):
            server.get("/sleep?s=0.05")
            killed = server.workers()[0]
            os.kill(killed, signal.SIGKILL)
            live.eventually(server.workers, lambda pids, killed=killed: killed not in pids and len(pids) == 2)
            scrapes.scrape()
        live.eventually(lambda: states(server)["idle"], lambda idle: idle == 2)
        samples = server.samples()
    assert [] == scrapes.problems
    assert servers.value(samples, "wsgi_worker_starts_total") == 2 + KILLS
    requests = by_label(samples, "wsgi_worker_requests_total")
    assert sum(requests.values()) == KILLS
    assert sum(by_label(samples, "wsgi_worker_busy_seconds_total").values()) >= KILLS * 0.05
    assert set(by_label(samples, "wsgi_worker_start_time_seconds")) <= set(requests)
    assert len(requests) == 2


def exits(server: live.LiveServer) -> dict[str, float]:
    """Return the workers that have ended, by reason."""
    found = by_label(server.samples(), "wsgi_worker_exits_total")
    return {reason: count for reason, count in found.items() if count}


def recycle(server: live.LiveServer) -> None:
    for _ in range(12):
        server.get("/")


def end_by(number: signal.Signals) -> Callable[[live.LiveServer], None]:
    return lambda server: os.kill(server.workers()[0], number)


def hang(server: live.LiveServer) -> None:
    threading.Thread(target=server.get, args=("/sleep?s=30",)).start()


# In order; after each there is one more of its reason and no other.
EXITS = {
    "SIGKILL": end_by(signal.SIGKILL),
    "SIGSEGV": end_by(signal.SIGSEGV),
    "timeout": hang,
    "max_requests": recycle,
    "reload": lambda server: os.kill(server.pid, signal.SIGHUP),
    "cheaped": lambda server: [
        os.kill(server.pid, number) or time.sleep(1) for number in (signal.SIGTTIN, signal.SIGTTOU)
    ],
}


def test_gunicorn_tells_why_a_worker_ended() -> None:
    """Each way in which a worker of gunicorn ends counts once, under its reason."""
    expected: dict[str, float] = {}
    with servers.start("gunicorn sync", "--timeout", "2", "--max-requests", "10", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        for reason, end in EXITS.items():
            end(server)
            expected[reason] = 1
            assert expected == live.eventually(lambda: exits(server), lambda found: found == expected)
            live.eventually(lambda: states(server), lambda found: found["idle"] == sum(found.values()) == 1)
            assert expected == exits(server)


def wait_for(server: live.LiveServer, expected: dict[str, float]) -> None:
    """Wait until the page shows the exits *expected*; the exporter may be away for a moment."""

    def read() -> dict[str, float]:
        with contextlib.suppress(OSError):
            return exits(server)
        return {}

    assert expected == live.eventually(read, lambda found: found == expected)


def kill(worker: int) -> None:
    os.kill(worker, signal.SIGKILL)


def test_exits_are_counted_across_arbiters_exporters_and_directories() -> None:
    """They outlive the exporter, the arbiter that has counted them, and the directory; an arbiter that ends stops its workers."""
    with servers.start("gunicorn sync", workers=1) as server:
        folder = servers.shared_directory(server)
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        kill(server.workers()[0])
        wait_for(server, {"SIGKILL": 1})
        _, serving = servers.supervisor_and_serving(server)
        server.signal_child(serving, signal.SIGKILL)
        wait_for(server, {"SIGKILL": 1})
        (first,) = live.eventually(server.workers, lambda pids: len(pids) == 1)
        os.kill(server.pid, signal.SIGUSR2)
        second = live.eventually(lambda: set(server.workers()) - {first}, bool).pop()
        live.eventually(lambda: states(server)["idle"], lambda idle: idle == 2)
        kill(server.workers(second)[0])
        wait_for(server, {"SIGKILL": 2})
        live.eventually(lambda: states(server)["idle"], lambda idle: idle == 2)
        server.signal_child(second, signal.SIGTERM)
        wait_for(server, {"SIGKILL": 2, "stop": 1})
        live.eventually(lambda: second in server.processes(), lambda there: not there)
        shutil.rmtree(folder)
        kill(first)
        wait_for(server, {"SIGKILL": 3, "stop": 1})


@needs_root
def test_exits_are_counted_where_the_workers_drop_root() -> None:
    """The arbiter's file belongs to the workers' user, whose exporter reads it."""
    command = [live.BIN / "gunicorn", "-c", "python:wsgi_prom.hooks.gunicorn", "--bind", "127.0.0.1:0"]
    command += ["--user", "www-data", "--group", "www-data", "plain:app"]
    ready = (r"Booting worker with pid", 1)
    with live.LiveServer(live.for_any_user(command), ready=ready, address=live.GUNICORN_LINE) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        kill(int(server.get("/pid").body))
        assert {"SIGKILL": 1} == live.eventually(lambda: exits(server), bool)


def test_a_worker_that_loads_its_application_is_booting() -> None:
    """While a worker imports its application it is booting, and idle afterwards."""
    with servers.start("gunicorn sync", app="slowboot:app", workers=1) as server:
        live.eventually(lambda: states(server), lambda found: found.get("booting") == 1)
        found = live.eventually(lambda: states(server), lambda found: found.get("idle") == 1)
    assert dict.fromkeys(STATES, 0) | {"idle": 1} == found


def test_a_worker_that_finishes_its_request_before_it_ends_is_stopping() -> None:
    """A worker that a reload has told to end is stopping until its request is answered."""
    with servers.start("gunicorn sync", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        thread = threading.Thread(target=server.get, args=("/sleep?s=3",))
        thread.start()
        live.eventually(lambda: states(server)["busy"], lambda busy: busy == 1)
        os.kill(server.pid, signal.SIGHUP)
        found = live.eventually(
            lambda: states(server), lambda found: found["stopping"] == 1 and found["idle"] == 1
        )
        thread.join()
        live.eventually(lambda: states(server)["stopping"], lambda stopping: stopping == 0)
    assert dict.fromkeys(STATES, 0) | {"idle": 1, "stopping": 1} == found


@pytest.mark.parametrize(
    "between", [0, 1, 500], ids=["alone", "among the application's own", "few among the application's own"]
)
def test_requests_and_seconds_are_added_up_at_each_scrape(between: int) -> None:
    """Ended requests and their seconds are right when a row changes, when none does, and when rows are added."""
    of_requests = Schemas(Settings())
    assert of_requests.untimed is not None
    workers = Workers()
    rows: list[tuple[Schema, tuple[str, ...]]] = []
    columns: list[array[float]] = []

    def add(schema: Schema, number: int, *values: float) -> None:
        rows.append((schema, ("GET", f"/{number}", "200")))
        columns.append(array("d", [0.0, *values, *[0.0] * (schema.width - len(values))]))
        for own in range(between):
            rows.append((schemas.counter("own", "Of the application.", ("number",)), (f"{number} {own}",)))
            columns.append(array("d", [0.0, 1e6]))

    def scrape() -> tuple[float, float]:
        data = array("d", chain.from_iterable(columns)).tobytes()
        families = workers.families([Reading(layout, data, "key", "0", live=False, nonce=1)])
        found = {family.name: family.samples[0].value for family in families if family.samples}
        return found["wsgi_worker_requests"], found["wsgi_worker_busy_seconds"]

    for number in range(40):
        # In its first bucket and its last; behind them what the bodies' sizes add up to.
        add(of_requests.request.schema, number, 0.5, 2, *[0.0] * 13, 1, 1e9, 1, 1e9)
    layout = Layout(rows)
    found = [scrape(), scrape()]
    columns[0][1] += 0.25
    columns[0][4] += 1
    found.append(scrape())
    add(of_requests.untimed, 40, 2, 8.0)
    layout = Layout(rows[-1 - between :], layout)
    found.append(scrape())
    assert [(120, 20.0), (120, 20.0), (121, 20.25), (123, 28.25)] == found
