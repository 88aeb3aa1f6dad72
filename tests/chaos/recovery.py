"""What chaos cases share: traffic during a harm, the page meanwhile, and the wait until all is counted."""

from __future__ import annotations

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Final

import live
import servers
from chaos.referee import KINDS, Kind
from chaos.scale import scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.referee import Case

# Long enough that as many requests as there are workers keep all of them busy at once.
NAP: Final = Kind("/sleep?s=0.1", "/sleep", 200, b"slept")

# A worker looks after its files once a second, when it is asked something.
HEALING_SECONDS: Final = 10.0


def ask_all(case: Case, workers: int, kind: Kind = NAP) -> None:
    """Have each of *workers* answer a request that takes a while."""
    case.send_all([kind] * workers, clients=workers)


@contextlib.contextmanager
def traffic(case: Case) -> Iterator[None]:
    """Send requests of all kinds from two clients for the length of the block, and a few before and after."""
    over = Event()

    def client() -> None:
        while not over.is_set():
            for kind in KINDS:
                case.send(kind)
                over.wait(scale.rest)

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        try:
            case.wait_for(10)
            yield
            case.wait_for(10)
        finally:
            over.set()
        for each in clients:
            each.result()


def shown(case: Case, name: str) -> float | None:
    """Scrape, and return the value of a metric without labels."""
    case.scrapes.scrape()
    return servers.value(case.scrapes.last, name)


def storage_errors(case: Case, workers: int = 2) -> float:
    """Have each worker look after its slot, and return how often that is said to have failed."""
    ask_all(case, workers)
    case.scrapes.scrape()
    return servers.value(case.scrapes.last, "wsgi_prom_errors_total", stage="storage") or 0.0


def missing(case: Case) -> float:
    """Return how many of the completed requests a scrape does not show; less than 0 if it shows too many."""
    case.scrapes.scrape()
    return case.tally.count - sum(servers.requests_counted(case.scrapes.last).values())


def settled(case: Case, workers: int = 2) -> float:
    """Send requests until all are counted, for a bounded time, and return how many are still missing."""

    def step() -> float:
        ask_all(case, workers)
        return missing(case)

    return live.latest(step, lambda found: found == 0, HEALING_SECONDS)


def status(case: Case, path: str) -> int:
    """Return how the exporter answers another path than that of the metrics."""
    return live.request(case.server.metrics_url.replace("/metrics", path)).status


def replace_workers(case: Case) -> None:
    """Kill all workers, which are idle, and wait until there are as many others."""
    before = set(case.server.workers())
    with case.fault(len(before), cuts=False):
        for pid in before:
            case.server.signal_child(pid, signal.SIGKILL)
    after = live.eventually(
        lambda: set(case.server.workers()) - before, lambda pids: len(pids) == len(before)
    )
    assert len(before) == len(after)
