"""
The latency of an application's requests while it is scraped, and the time of a scrape while the application is busy.

There are 32 slots of 1,000 label sets: those of gunicorn's workers, which are half busy, and those of processes that write
no more.
Two scrapers scrape once a second each, half a second apart, and give up after a second, as Prometheus does. Requests are
sent in an open loop (pacer.py): the latency of a request counts from the time at which it was due.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import daemon
import load
from filler import LABELS, Writers
from harness import Figure, Part, Ratio, Scale, interleave, paired
from pacer import Order, median_of, percentile, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon import Daemon

SLOTS: Final = 32
WORKERS: Final = 8

# A request takes 12 ms of a worker, 2 ms of them CPU: this rate is half of what the workers could do, and half of two cores.
RATE: Final = 330
SCRAPERS: Final = 2
INTERVAL_SECONDS: Final = 1.0

# Stock's requests wait for seconds. One without an answer by then counts as if it had been answered then.
_LIMIT_SECONDS: Final = 30.0
_SETTLE_SECONDS: Final = 180.0
# By default gunicorn kills a worker after 30 s. Several of stock's scrapes together take longer.
_TIMEOUT: Final = ("--timeout", "300")
_PERCENTS: Final = (50, 99)

_WINDOWS: Final = ("quiet", "quiet again", "scraped")


class Served(NamedTuple):
    """The application's server, with all slots filled, and the *address* and *path* of its metrics."""

    server: Daemon
    address: tuple[str, int]
    path: str

    def scrape(self, due: float, limit: float) -> Order:
        return Order(due, self.address, self.path, limit)

    def settle(self) -> None:
        """Wait until the server is idle: it still works on scrapes whose clients have given up."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        before, now = -1.0, self.server.cpu_seconds()
        # The master wakes once a second, which takes less than 0.01 s.
        while abs(now - before) > 0.02:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server is busy for {_SETTLE_SECONDS:.0f} s without requests")
            time.sleep(0.3)
            before, now = now, self.server.cpu_seconds()


def measure(scale: Scale) -> Part:
    with _served("ours") as served:
        figures = _compare("ours", served, 2 if scale.quick else scale.rounds, 2 if scale.quick else 6)
        figures |= _saturation(served, 1 if scale.quick else scale.rounds)
    ratios = [
        _unchanged(figures, 50, 1.1),
        _unchanged(figures, 99, 1.25),
        Ratio(
            "scrape under saturation by one in peace",
            paired(figures["ours scrape under saturation"], figures["ours scrape in peace"]),
            3,
        ),
    ]
    if not scale.quick:
        # The scrapes overload stock's server: it takes longer to recover than all the rest to measure.
        with _served("stock") as served:
            figures |= _compare("stock", served, 2, 6)
    return Part("Requests while scraped", tuple(figures.values()), tuple(ratios))


@contextmanager
def _served(contender: str) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        ours = contender == "ours"
        with (
            daemon.gunicorn(
                "busy:app", *_TIMEOUT, workers=WORKERS, hook=ours, PROMETHEUS_MULTIPROC_DIR=folder
            ) as server,
            Writers(contender, Path(folder)) as writers,
        ):
            # A worker that has answered has loaded the application and claimed its slot.
            play([Order(0.0, server.address, f"/{number}", _LIMIT_SECONDS) for number in range(4 * WORKERS)])
            writers.hold(SLOTS - WORKERS, LABELS)
            url = urlsplit(server.metrics_url if ours else f"{server.url}/metrics")
            yield Served(server, (str(url.hostname), url.port or 80), url.path)


def _compare(contender: str, served: Served, rounds: int, seconds: int) -> dict[str, Figure]:
    """Measure the windows, in another order each round, and each when the server is idle again."""
    chance = random.Random(1)
    values: dict[str, list[float]] = {
        f"{contender} {window} p{percent}": [] for window in _WINDOWS for percent in _PERCENTS
    }
    for _ in range(rounds):
        for window in chance.sample(_WINDOWS, len(_WINDOWS)):
            served.settle()
            latencies = _latencies(served, seconds, scrapers=SCRAPERS if window == "scraped" else 0)
            for percent in _PERCENTS:
                values[f"{contender} {window} p{percent}"].append(percentile(latencies, percent))
    return {name: Figure(name, "ms", tuple(found)) for name, found in values.items()}


def _latencies(served: Served, seconds: int, scrapers: int) -> list[float]:
    requests = [
        Order(number / RATE, served.server.address, f"/{number}", _LIMIT_SECONDS)
        for number in range(RATE * seconds)
    ]
    scrapes = [
        served.scrape((turn + scraper / scrapers) * INTERVAL_SECONDS, INTERVAL_SECONDS)
        for turn in range(seconds)
        for scraper in range(scrapers)
    ]
    found = play([*requests, *scrapes])[: len(requests)]
    return [1e3 * (_LIMIT_SECONDS if value is None else value) for value in found]


def _unchanged(figures: dict[str, Figure], percent: int, bound: float) -> Ratio:
    quiet, again, scraped = (figures[f"ours {window} p{percent}"] for window in _WINDOWS)
    noise = paired(again, quiet)
    return Ratio(
        f"p{percent} of requests, scraped by quiet (quiet by quiet: {noise:.2f})",
        paired(scraped, quiet),
        bound,
    )


def _saturation(served: Served, rounds: int) -> dict[str, Figure]:
    """
    Time scrapes while all workers compute without a pause, and while they have nothing to do.

    The scheduler decides how much of the cores a scrape gets. The exporter is a session of its own: where the kernel groups
    by sessions (sched_autogroup_enabled) it has as large a share as all workers together; in a container, or a unit with a
    CPU weight, it is one process among them.
    """
    orders = [served.scrape(0.2 + 0.5 * number, _LIMIT_SECONDS) for number in range(4)]

    def peace() -> float:
        return 1e3 * median_of(play(orders))

    def saturation() -> float:
        # wrk ends by itself, a second after the last scrape has begun.
        with subprocess.Popen(load.command(f"{served.server.url}/spin", 3), stdout=subprocess.DEVNULL):
            return peace()

    contenders = {"ours scrape in peace": peace, "ours scrape under saturation": saturation}
    return interleave(contenders, "ms", Scale(rounds, 1))
