"""
What the server's figures add to a scrape: workers, processes, listen queues, heartbeats, uWSGI's stats server.

Real servers with 32 workers of 4 threads, each worker with a thousand label sets of its own. One process makes the pages of
such a server in turns, with these figures and without. Its CPU time counts, of all threads.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import daemon
from harness import Child, Figure, Part, Ratio, Scale, added, answer, interleave, paired
from pacer import Order, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon import Daemon

WORKERS: Final = 32
THREADS: Final = 4
# Milliseconds that the figures may add.
BOUND: Final = 15

_QUICK: Final = ("uWSGI",)
_LIMIT_SECONDS: Final = 60.0


def _gunicorn(folder: Path) -> Daemon:
    options = ("--threads", str(THREADS), "--timeout", "300", "--preload")
    return daemon.gunicorn("busy:app", *options, workers=WORKERS, hook=True, **_shared(folder))


def _uwsgi(folder: Path) -> Daemon:
    options = ("--threads", str(THREADS), "--stats", str(folder / "stats"))
    return daemon.uwsgi("busy:app", *options, workers=WORKERS, hook=True, **_shared(folder))


def _shared(folder: Path) -> dict[str, str]:
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder / "shared")}


SERVERS: Final[dict[str, Callable[[Path], Daemon]]] = {"uWSGI": _uwsgi, "gunicorn": _gunicorn}


class Scraped(Child):
    """The process that makes the pages of *server*, which shares *folder*/shared."""

    def __init__(self, name: str, server: Daemon, folder: Path) -> None:
        told = {
            "server": name,
            "address": server.address,
            "stats": f"unix:{folder}/stats" if name == "uWSGI" else "",
        }
        command = [
            "-c",
            "import serverfigures; serverfigures.main()",
            str(folder / "shared"),
            json.dumps(told),
        ]
        super().__init__(command, {"PROMETHEUS_MULTIPROC_DIR": None})

    def scrape(self, which: str) -> float:
        """Return the milliseconds of CPU that the page took: "with" the server's figures, or "without"."""
        return float(self.ask(which))

    def page(self, which: str) -> str:
        return str(self.ask(f"page {which}"))


@contextmanager
def scraped(name: str) -> Iterator[Scraped]:
    """Have the server called *name*, of which each worker has answered, and the process that scrapes it."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as made:
        folder = Path(made)
        (folder / "shared").mkdir(mode=0o700)
        with SERVERS[name](folder) as server:
            orders = [
                Order(0.0, server.address, f"/{number}", _LIMIT_SECONDS) for number in range(4 * WORKERS)
            ]
            play(orders)
            with Scraped(name, server, folder) as child:
                yield child


def measure(scale: Scale) -> Part:
    figures, ratios = [], []
    for name in _QUICK if scale.quick else SERVERS:
        with scraped(name) as child:
            for which in ("with", "without"):
                child.scrape(which)
            found = interleave(
                {which: partial(child.scrape, which) for which in ("without", "with")}, "ms", scale
            )
        more, by = added(found["with"], found["without"]), paired(found["with"], found["without"])
        case = f"{name} {WORKERS} workers"
        figures += [
            Figure(f"{which} {case}", figure.unit, figure.values)
            for which, figure in {**found, "added": more}.items()
        ]
        ratios.append(
            Ratio(f"ms added by the figures of {case} (with by without: {by:.2f})", more.median, BOUND)
        )
    return Part("The server's figures", tuple(figures), tuple(ratios))


def main() -> None:
    path, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    pages = _pages(path, **told)

    def respond(question: str) -> Any:
        word, _, which = question.partition(" ")
        if word == "page":
            return pages[which]().decode()
        started = time.process_time()
        pages[word]()
        return (time.process_time() - started) * 1e3

    answer(respond)


class NoSources:
    """The server's figures, switched off."""

    def workers(self, _slots: object) -> list[Any]:
        return []

    def worker_states(self, _slots: object) -> list[Any]:
        return []

    def families(self, *_: object) -> list[Any]:
        return []


def _pages(path: Path, server: str, address: tuple[str, int], stats: str) -> dict[str, Callable[[], bytes]]:
    """Return what makes each page, as the exporter does that the server's hook starts."""
    from prometheus_client import CollectorRegistry

    from wsgi_prom.exporter.page_cache import Pages
    from wsgi_prom.exporter.process.serving import COLLECT_AFTER
    from wsgi_prom.exporter.target import Target
    from wsgi_prom.server.listen_queues import ListeningSocket

    gc.set_threshold(COLLECT_AFTER)
    target = Target("busy:app", server, "1", "", THREADS, (ListeningSocket.at(*address),), stats)

    def page(pages: Pages) -> bytes:
        return pages.page(time.monotonic(), deadline=time.monotonic() + _LIMIT_SECONDS).content

    both = {which: Pages(path, CollectorRegistry(), target) for which in ("with", "without")}
    both["with"].sources.watch(path)
    both["without"].sources = NoSources()  # type: ignore[assignment]
    return {which: partial(page, pages) for which, pages in both.items()}
