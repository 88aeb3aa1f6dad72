"""
A process that scrapes one directory again and again, as an exporter does: each contender's way to make the page.

Each contender has a process of its own: neither its memory nor its first scrape is another's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Child, answer

if TYPE_CHECKING:
    from collections.abc import Callable


class Reader(Child):
    """The process; *contender* is "stock", "ours", or "read", which reads the files' bytes and does nothing more."""

    def __init__(self, contender: str, path: Path) -> None:
        command = ["-c", "import reader; reader.main()", contender, str(path)]
        super().__init__(command, {"PROMETHEUS_MULTIPROC_DIR": None})

    def scrape(self) -> float:
        """
        Return the milliseconds of CPU that one page took, without imports.

        A scrape waits for nothing: on an idle machine that is also the time that passes. On a busy one it does not include
        the time of other processes.
        """
        return float(self.ask("scrape"))

    def page(self) -> str:
        return str(self.ask("page"))

    def memory(self) -> float:
        """Return the process's peak memory in megabytes."""
        return float(self.ask("memory"))


def stock(path: Path) -> Callable[[], bytes]:
    """As the client library documents it: a new registry for each scrape."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    def page() -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(path))
        return generate_latest(registry)

    return page


def ours(path: Path) -> Callable[[], bytes]:
    """The exporter's own pages, in a process with all of the exporter's imports."""
    from prometheus_client import CollectorRegistry

    import wsgi_prom.exporter.process.exporter  # noqa: F401 - its memory counts
    from wsgi_prom.exporter.page_cache import Pages

    pages = Pages(path, CollectorRegistry())
    return lambda: pages.page(time.monotonic()).content


def read(path: Path) -> Callable[[], bytes]:
    """The least that a scrape of these files takes, unless it keeps what it has read before."""
    return lambda: b"".join(file.read_bytes() for file in path.iterdir())


def main() -> None:
    contender, path = sys.argv[1:]
    page = {"stock": stock, "ours": ours, "read": read}[contender](Path(path))

    def respond(question: str) -> Any:
        if question == "memory":
            return _peak()
        if question == "page":
            return page().decode()
        started = time.process_time()
        page()
        return (time.process_time() - started) * 1e3

    answer(respond)


def _peak() -> float:
    # Not ru_maxrss: a process starts with the figure of its parent (tried).
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
