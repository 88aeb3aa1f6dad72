"""
The servers that every claim about totals is tested on, by name, and what tests ask of a running one.
"""

from __future__ import annotations

import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import live

from wsgi_prom.store import exit_counts, exporter_files

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from live import LiveServer, Samples

GUNICORN: Final[dict[str, tuple[str, ...]]] = {
    "gunicorn sync": (),
    "gunicorn sync preload": ("--preload",),
    "gunicorn gthread": ("--threads", "4"),
    "gunicorn gthread preload": ("--threads", "4", "--preload"),
}
UWSGI: Final[dict[str, tuple[str, ...]]] = {
    "uwsgi prefork": (),
    "uwsgi lazy-apps": ("--lazy-apps",),
    "uwsgi threads": ("--enable-threads", "--threads", "4"),
    "uwsgi mule": ("--mule",),
}
ALL: Final = [*GUNICORN, *UWSGI]
# One of each server, where the way of forking makes no difference.
BOTH: Final = ["gunicorn sync", "uwsgi prefork"]

# Of a master that imports the application before it forks, all its workers share the import.
IMPORTED_ONCE: Final = frozenset(name for name in ALL if "preload" in name or name.startswith("uwsgi")) - {
    "uwsgi lazy-apps"
}


def start(name: str, *args: str, app: str = "plain:app", **options: object) -> LiveServer:
    """Return the server called *name*, not yet started, with more arguments and the options of `live`'s functions."""
    if name in GUNICORN:
        return live.gunicorn(app, *GUNICORN[name], *args, **options)  # type: ignore[arg-type]
    return live.uwsgi(*UWSGI[name], *args, app=app, **options)  # type: ignore[arg-type]


def exporters(server: LiveServer) -> list[int]:
    """Return the pids of the exporters that *server* started: of each its supervisor, or the process that is all of it."""
    found = exporter_processes(server)
    return [pid for pid in found if live.parent(pid) not in found]


def exporter_processes(server: LiveServer) -> list[int]:
    """Return the pids of all processes of exporters that *server* started."""
    return [pid for pid in server.processes() if " serve --directory " in live.command_line(pid)]


def supervisor_and_serving(server: LiveServer) -> tuple[int, int]:
    """Wait until the exporter of *server* has both processes, and return the pids of its supervisor and serving process."""
    assert server.metrics_url

    def read() -> list[int]:
        # The supervisor first.
        return sorted(exporter_processes(server), key=lambda pid: pid not in exporters(server))

    def whole(found: list[int]) -> bool:
        return len(found) == 2 and live.parent(found[1]) == found[0]

    supervisor, serving = live.eventually(read, whole)
    return supervisor, serving


def kill_exporter(server: LiveServer) -> None:
    """Kill both processes of the exporter of *server*, so that nobody is left to restart the other."""
    supervisor, serving = supervisor_and_serving(server)
    server.signal_child(supervisor, signal.SIGSTOP)
    for pid in (serving, supervisor):
        server.signal_child(pid, signal.SIGKILL)


def shared_directory(server: LiveServer) -> Path:
    """Return the directory that the workers of *server* share, from its exporter's command line."""
    assert server.metrics_url  # it has got as far as listening
    (pid,) = exporters(server)
    found = re.search(r"--directory (\S+)", live.command_line(pid))
    assert found is not None
    return Path(found[1])


def files(folder: Path) -> dict[str, os.stat_result]:
    """Return the files of the shared directory *folder* by name, less those that are about to take the place of another."""
    found = {}
    for path in folder.iterdir():
        if path.suffix != ".new":
            with suppress(FileNotFoundError):  # removed meanwhile
                found[path.name] = path.lstat()
    return found


def worker_files(folder: Path) -> dict[str, os.stat_result]:
    """Return the `files` of *folder* without those that the exporter and the arbiter of gunicorn write in their own time."""
    others = exporter_files.own, exit_counts.own
    return {name: found for name, found in files(folder).items() if not any(own(name) for own in others)}


def remove(folder: Path) -> None:
    """Remove the shared directory *folder*, in which processes may write meanwhile."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    assert live.eventually(removed, bool)


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the value of one series, None if it is not there."""
    return samples.get((name, frozenset(labels.items())))


def requests_counted(samples: Samples) -> dict[tuple[str, str], float]:
    """Return `http_requests_total` by route and status."""
    found = live.labelled(samples, "http_requests_total")
    return {(dict(labels)["route"], dict(labels)["status"]): count for labels, count in found.items()}


# Counters that begin again: the exporter's with its process, and uWSGI's with the master, at each reload of it.
_BEGIN_AGAIN: Final = ("wsgi_prom_scrapes_total", "uwsgi_")


def gone_back(before: Samples, after: Samples) -> list[str]:
    """Return what a counter must never do: every series that sank or vanished from one scrape to the next."""
    return [
        f"{name}{dict(labels)}: {count} and then {after.get((name, labels))}"
        for (name, labels), count in before.items()
        if name.endswith(("_total", "_count", "_sum", "_bucket"))
        and not name.startswith(_BEGIN_AGAIN)
        and after.get((name, labels), -1.0) < count
    ]


class Scraper:
    """Scrapes again and again while something happens, and keeps what a Prometheus server would stumble over."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self.last: Samples = server.samples()
        self.scrapes = 1
        self.problems: list[str] = []

    def scrape(self) -> None:
        try:
            found = self._server.samples()
        except (OSError, RuntimeError, ValueError) as error:
            self.problems.append(f"scrape {self.scrapes}: {error!r}")
            return
        self.problems += gone_back(self.last, found)
        self.last = found
        self.scrapes += 1

    def during(self, work: Callable[[], live.T]) -> live.T:
        """Do *work* in a thread, and scrape until it is done, some twenty times a second, and once more."""
        from concurrent.futures import ThreadPoolExecutor, wait

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while not future.done():
                self.scrape()
                wait([future], 0.03)
            self.scrape()
            return future.result()
