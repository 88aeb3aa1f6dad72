"""
What an application's clients notice of being scraped, and what a scrape notices of a busy application.

32 slots of 1,000 label sets: some are gunicorn's workers, half busy; the rest are held by processes that write no more.
Two scrapers ask once a second each, half a second apart, and give up after that second, as Prometheus has to. Requests
come in an open loop: those that come while nobody answers have waited from when they were due.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import daemon
import load
from filler import LABELS, Writers
from harness import Figure, Part, Ratio, Scale, interleave, paired
from pacer import Order, median_of, percentile, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon import Daemon

SLOTS: Final = 32
WORKERS: Final = 8

# A request takes 12 ms of a worker, and 2 of them are CPU: half of what the workers could do, and half of two cores.
RATE: Final = 330
SCRAPERS: Final = 2
INTERVAL_SECONDS: Final = 1.0

# Stock's requests wait for seconds; one that is not answered by then counts as if it was then.
_LIMIT_SECONDS: Final = 30.0
_SCRAPES_A_SECOND: Final = 2

_WINDOWS: Final = ("quiet", "quiet again", "scraped")


@contextmanager
def served(contender: str) -> Iterator[tuple[Daemon, tuple[str, int], str]]:
    """Have the application served, and its slots filled. Yield the server, and where the metrics are."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        environ = {"PROMETHEUS_MULTIPROC_DIR": folder}
        ours = contender == "ours"
        with (
            daemon.gunicorn("busy:app", workers=WORKERS, hook=ours, environ=environ) as server,
            Writers(contender, Path(folder)) as writers,
        ):
            # Each worker has loaded the application when it has answered.
            play([Order(0.0, server.address, f"/{number}", _LIMIT_SECONDS) for number in range(4 * WORKERS)])
            writers.hold(SLOTS - WORKERS, LABELS)
            url = urlsplit(server.metrics_url if ours else f"{server.url}metrics")
            yield server, (str(url.hostname), url.port or 80), url.path


def measure(scale: Scale) -> Part:
    figures = _compare("ours", scale.rounds, 2 if scale.quick else 6) | _saturation(scale)
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
        # An outage: it takes longer to end than all the rest to measure.
        figures |= _compare("stock", 2, 6)
    return Part("Requests while scraped", tuple(figures.values()), tuple(ratios))


def _unchanged(figures: dict[str, Figure], percent: int, bound: float) -> Ratio:
    quiet, again, scraped = (figures[f"ours {window} p{percent}"] for window in _WINDOWS)
    noise = paired(again, quiet)
    return Ratio(
        f"p{percent} of requests, scraped by quiet (quiet by quiet: {noise:.2f})",
        paired(scraped, quiet),
        bound,
    )


def _compare(contender: str, rounds: int, seconds: int) -> dict[str, Figure]:
    """Measure windows in another order each round, each of them as soon as the one before has been answered."""
    chance = random.Random(1)
    values: dict[str, list[float]] = {
        f"{contender} {window} p{percent}": [] for window in _WINDOWS for percent in (50, 99)
    }
    with served(contender) as (server, metrics, path):
        for _ in range(rounds):
            for window in chance.sample(_WINDOWS, len(_WINDOWS)):
                scrapes = _scrapes(metrics, path, seconds) if window == "scraped" else []
                latencies = _latencies(server, scrapes, seconds)
                for percent in (50, 99):
                    values[f"{contender} {window} p{percent}"].append(percentile(latencies, percent))
    return {name: Figure(name, "ms", tuple(found)) for name, found in values.items()}


def _latencies(server: Daemon, scrapes: list[Order], seconds: int) -> list[float]:
    requests = [
        Order(number / RATE, server.address, f"/{number}", _LIMIT_SECONDS) for number in range(RATE * seconds)
    ]
    found = play([*requests, *scrapes])[: len(requests)]
    return [1e3 * (_LIMIT_SECONDS if value is None else value) for value in found]


def _scrapes(metrics: tuple[str, int], path: str, seconds: int) -> list[Order]:
    return [
        Order((second + scraper / SCRAPERS) * INTERVAL_SECONDS, metrics, path, INTERVAL_SECONDS)
        for second in range(seconds)
        for scraper in range(SCRAPERS)
    ]


def _saturation(scale: Scale) -> dict[str, Figure]:
    """Time scrapes of ours while all workers compute without a pause, and while they have nothing to do."""
    seconds = 2 if scale.quick else 4
    with served("ours") as (server, metrics, path):
        orders = [
            Order(0.2 + number / _SCRAPES_A_SECOND, metrics, path, _LIMIT_SECONDS)
            for number in range(seconds * _SCRAPES_A_SECOND)
        ]

        def peace() -> float:
            return 1e3 * median_of(play(orders))

        def saturation() -> float:
            # It ends by itself, after the last scrape; a scrape that has not ended by then has no load at its end.
            command = load.command(f"{server.url}spin", seconds + 1)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL):
                return peace()

        contenders: dict[str, Callable[[], float]] = {
            "ours scrape in peace": peace,
            "ours scrape under saturation": saturation,
        }
        return interleave(contenders, "ms", Scale(scale.rounds, 1))
