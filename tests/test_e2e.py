"""
A real Prometheus scrapes examples/flask every second while its workers are killed, recycled and reloaded; and beside it the same
application with a registry in each worker, of which the same queries tell nonsense. `make e2e` does it for a minute.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import live
import pytest
import queries
from traffic import Sent, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queries import Prometheus

SECONDS: Final = float(os.environ.get("E2E_SECONDS") or 10)
# In each round a worker of each server is killed, and later all workers are replaced.
ROUND: Final = 5.0
WORKERS: Final = 3
CLIENTS: Final = 4
RATE: Final = 30
PATHS: Final = ["/", "/users/1", "/users/2", "/fail", "/slow?seconds=0.02"]
# Each worker is replaced after so many requests: one of a server's every two seconds.
RECYCLED: Final = ["--max-requests", "60"]
OURS: Final = ["uwsgi", "gunicorn"]
# Begin again with uWSGI's master, as they do in its own exporter.
OF_THE_MASTER: Final = "uwsgi_"
REQUEST_SAMPLES: Final = 'count({__name__=~"http_.*"})'


class Shop(live.LiveServer):
    """A server that finds examples/flask too."""

    module_folders = (live.APPS, live.ROOT / "examples" / "flask")


class Watched(NamedTuple):
    """
    What Prometheus has seen of a server.

    *sent* and *counted* are from a scrape before the traffic to one after it; *increase* is between two scrapes in its midst, in
    which at least *fewest* requests were answered and at most *most*, as a page is read a moment after the time of its scrape.
    """

    sent: Sent
    counted: float
    fewest: int
    most: int
    increase: float
    # Of each counter that has any.
    resets: dict[str, float]
    up: float
    # On the page before the traffic and after it: all samples, and those of requests.
    samples: tuple[float, float]
    of_requests: tuple[float, float]
    # Workers that the page names after the traffic.
    of_workers: float


class Run(NamedTuple):
    """What Prometheus has seen of each server, and its log."""

    watched: dict[str, Watched]
    log: str


@contextlib.contextmanager
def started() -> Iterator[dict[str, Shop]]:
    """Start both servers with the package, and the naive one."""
    with contextlib.closing(live.hold_port()) as held, contextlib.ExitStack() as stack:
        # By default uWSGI does not replace a worker that is younger than 10 s. After a reload it has the same port only if it was told.
        uwsgi = ["--single-interpreter", "--disable-logging"]
        made = {
            "uwsgi": Shop.uwsgi(
                "app:app",
                *uwsgi,
                *RECYCLED,
                "--min-worker-lifetime",
                "0",
                workers=WORKERS,
                port=held.getsockname()[1],
            ),
            "gunicorn": Shop.gunicorn("app:app", "--preload", *RECYCLED, workers=WORKERS),
            "naive": Shop.uwsgi(None, *uwsgi, workers=WORKERS, hook=None, module="naive:app"),
        }
        yield {name: stack.enter_context(server) for name, server in made.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Watch all servers at once, through the same kills at the same times."""
    with started() as running, contextlib.ExitStack() as stack:
        # Of a fault of each kind some samples remain, such as the number of reloads. The first value of a new series is no increase.
        for name in OURS:
            kill_a_worker(running[name])
            reload(running[name])
        for server in running.values():
            assert live.eventually(server.workers, lambda workers: len(workers) == WORKERS)
            # What increase() takes a reset for is what a worker has counted in its life.
            live.drive(server.url, PATHS * 30 * WORKERS)
        pages = {
            name: server.metrics_url if name in OURS else f"{server.url}/metrics"
            for name, server in running.items()
        }
        targets = {
            url.removeprefix("http://").removesuffix("/metrics"): {"setup": name}
            for name, url in pages.items()
        }
        with queries.prometheus(tmp_path_factory.mktemp("e2e"), targets) as prometheus:
            idle = queries.settle(2)
            traffic = {
                name: stack.enter_context(Traffic(server.url, PATHS, rate=RATE, number=CLIENTS))
                for name, server in running.items()
            }
            first = queries.settle(2.5)
            suffer(running)
            last = time.time()
            stack.close()
            end = queries.settle(3)
            watched = {
                name: judged(prometheus, name, sent, (idle, first, last, end))
                for name, sent in traffic.items()
            }
            yield Run(watched, prometheus.log())


def suffer(running: dict[str, Shop]) -> None:
    """
    Have a worker of each server killed, and all workers of those with the package replaced, again and again.

    The naive one is spared reloads and recycling, with which it would lose all that it has counted.
    """
    for _ in range(max(round(SECONDS / ROUND), 1)):
        for server in running.values():
            kill_a_worker(server)
        time.sleep(ROUND / 2)
        for name in OURS:
            reload(running[name])
        time.sleep(ROUND / 2)


def kill_a_worker(server: Shop) -> None:
    # A uWSGI that is being reloaded may have none, and one may be replaced just now.
    with contextlib.suppress(IndexError, ProcessLookupError, ValueError):
        server.signal_child(random.choice(server.workers()), signal.SIGKILL)


def reload(server: Shop) -> None:
    server.kill(signal.SIGHUP)


def judged(prometheus: Prometheus, name: str, traffic: Traffic, times: tuple[float, ...]) -> Watched:
    """Return what Prometheus says of the server *name* by the times at which it was idle, busy, still busy, and idle again."""

    def ask(expression: str, at: float) -> float:
        found = prometheus.value(expression.replace("{", f'{{setup="{name}",'), at)
        return float("nan") if found is None else found

    # From one scrape to another: nothing is extrapolated, and what was sent in between is known.
    idle, first, last, end = (ask("timestamp(up{})", at) for at in times)
    took = [ask("scrape_duration_seconds{}", at) for at in (first, last)]
    within = f"{{}}[{(last - first) * 1000 + 1:.0f}ms]"
    found = prometheus.query(
        f'count by (__name__) ({{setup="{name}", __name__=~".*_(total|count|sum|bucket)"}})', last
    )
    counters = [item["metric"]["__name__"] for item in found]
    resets = {
        counter: ask(f"sum(resets({counter}{within}))", last)
        for counter in counters
        if not counter.startswith(OF_THE_MASTER)
    }
    total = "sum(http_requests_total{})"
    return Watched(
        sent=traffic.sent(idle, end),
        counted=ask(total, end) - ask(total, idle),
        fewest=traffic.sent(first + took[0], last).answered,
        most=sum(traffic.sent(first, last + took[1])),
        increase=ask(f"sum(increase(http_requests_total{within}))", last),
        resets={counter: number for counter, number in resets.items() if number},
        up=ask(f"min_over_time(up{within})", last),
        samples=(ask("scrape_samples_scraped{}", idle), ask("scrape_samples_scraped{}", end)),
        of_requests=(ask(REQUEST_SAMPLES, idle), ask(REQUEST_SAMPLES, end)),
        of_workers=ask("count(wsgi_worker_requests_total{})", end),
    )


def row(name: str, seen: Watched) -> dict[str, object]:
    """Return the row of a server in the table that conftest.py prints."""
    return {
        "set-up": name,
        "answered": seen.sent.answered,
        "cut_off": seen.sent.cut,
        "counted": f"{seen.counted:g}",
        "in_the_range": f"{seen.fewest} to {seen.most}",
        "increase()": f"{seen.increase:.1f}",
        "resets()": f"{sum(seen.resets.values()):g}",
        "up": f"{seen.up:g}",
        "samples": "{:g}, then {:g}".format(*seen.samples),
    }


def test_nothing_is_lost(run: Run, record_property: Callable[[str, object], None]) -> None:
    """From before the traffic until after it, the counters rise by what was sent; of requests that were cut off each may be counted."""
    for name, seen in run.watched.items():
        record_property("e2e", row(name, seen))
    found = {name: run.watched[name] for name in OURS}
    assert {} == {
        name: seen for name, seen in found.items() if not seen.sent.answered <= seen.counted <= sum(seen.sent)
    }


def test_increase_is_what_was_sent(run: Run) -> None:
    """increase() over a range in the midst of the faults differs by at most 1 % from what was sent, or by the requests under way."""
    found = {name: run.watched[name] for name in OURS}
    assert dict.fromkeys(OURS, True) == {
        name: seen.fewest - allowed <= seen.increase <= seen.most + allowed
        for name, seen in found.items()
        for allowed in (max(0.01 * seen.fewest, CLIENTS),)
    }, found


def test_no_counter_goes_back(run: Run) -> None:
    """resets() of each counter is 0, whatever happens to the workers."""
    assert {name: {} for name in OURS} == {name: run.watched[name].resets for name in OURS}


def test_every_scrape_is_answered(run: Run) -> None:
    """up is 1 throughout: while workers are killed, and while there is none during a reload of uWSGI."""
    assert dict.fromkeys(OURS, 1) == {name: run.watched[name].up for name in OURS}


def test_a_page_does_not_grow(run: Run) -> None:
    """
    After all the faults a page has as many series of requests as before, and of workers as ever lived at once: those before and
    after a reload, and those that replace others.
    """
    found = {name: run.watched[name] for name in OURS}
    assert {name: seen.of_requests[0] for name, seen in found.items()} == {
        name: seen.of_requests[1] for name, seen in found.items()
    }
    assert {} == {name: seen for name, seen in found.items() if seen.of_workers > 3 * WORKERS}


def test_prometheus_has_nothing_to_complain_about(run: Run) -> None:
    """Its log has no warning of duplicate or late samples, nor any other."""
    assert [] == [line for line in run.log.splitlines() if "level=info" not in line]


def test_the_naive_set_up_tells_nonsense(run: Run) -> None:
    """With a registry in each worker counters go back, their difference is not what was sent, and neither is increase()."""
    seen = run.watched["naive"]
    assert seen.resets["http_requests_total"] > 0
    assert not seen.sent.answered <= seen.counted <= sum(seen.sent)
    assert not 0.9 * seen.fewest <= seen.increase <= 1.1 * seen.most, seen
