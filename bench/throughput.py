"""
Requests per second of real servers with an application that does nothing, with all default metrics and bare.

Both servers run at the same time and are loaded in turns, so that a noisy neighbour slows both. Each request has a
connection of its own.
"""

from __future__ import annotations

import re
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Final

import daemon
import load
from harness import Figure, Part, Ratio, Scale, interleave, paired

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon import Daemon

WORKERS: Final = 2

SERVERS: Final[dict[str, Callable[[bool], Daemon]]] = {
    "gunicorn sync": lambda hook: daemon.gunicorn("trivial:app", workers=WORKERS, hook=hook),
    "gunicorn gthread": lambda hook: daemon.gunicorn(
        "trivial:app", "--threads", "4", workers=WORKERS, hook=hook
    ),
    # uWSGI closes each connection, but tells wrk so only with this header.
    "uWSGI": lambda hook: daemon.uwsgi(
        "trivial:app", "--add-header", "Connection: close", workers=WORKERS, hook=hook
    ),
}

_QUICK: Final = ("gunicorn sync", "uWSGI")

_REQUESTS: Final = re.compile(r"^http_requests_total\{.*\} (\S+)$", re.MULTILINE)


def measure(scale: Scale) -> Part:
    figures: dict[str, Figure] = {}
    ratios = []
    for name in _QUICK if scale.quick else SERVERS:
        found = _compare(name, scale)
        figures |= found
        value = paired(found[f"ours {name}"], found[f"bare {name}"])
        ratios.append(Ratio(f"throughput of {name}, ours by bare", value, 0.95, at_least=True))
    return Part("Throughput", tuple(figures.values()), tuple(ratios))


def _compare(name: str, scale: Scale) -> dict[str, Figure]:
    with SERVERS[name](False) as bare, SERVERS[name](True) as ours:
        both = {f"bare {name}": Loaded(bare), f"ours {name}": Loaded(ours)}
        for each in both.values():
            each.run(1)
        figures = interleave(
            {key: partial(each.run, 1) for key, each in both.items()},
            "requests/s",
            # Many short rounds: with 7 rounds of 6 seconds uWSGI's ratio was 0.94 in one run and 1.10 in the next.
            Scale(scale.rounds if scale.quick else scale.rounds * 6, 1),
        )
        both[f"ours {name}"].check()
    for key, each in both.items():
        figures[f"{key} CPU"] = Figure(f"{key} CPU", "us a request", tuple(each.cpu[1:]))
    return figures


class Loaded:
    """
    A server, and the runs of wrk against it.

    *cpu* is the server's CPU time for a request, in microseconds, by run: other processes change it less than the throughput.
    """

    def __init__(self, server: Daemon) -> None:
        self._server = server
        self._runs: list[load.Run] = []
        self.cpu: list[float] = []

    def run(self, seconds: int) -> float:
        before = self._server.cpu_seconds()
        run = load.run(f"{self._server.url}/", seconds)
        self._runs.append(run)
        self.cpu.append((self._server.cpu_seconds() - before) / run.requests * 1e6)
        return run.per_second

    def check(self) -> None:
        """Raise RuntimeError unless the exporter shows as many requests as wrk: a server that counts none is fast too."""
        seen = sum(run.requests for run in self._runs)
        with urllib.request.urlopen(self._server.metrics_url, timeout=30) as response:
            count = counted(response.read().decode())
        # wrk ends in the middle of as many requests as it has connections.
        if not seen <= count <= seen + len(self._runs) * load.CONNECTIONS:
            raise RuntimeError(f"wrk saw {seen} requests, {count:.0f} were counted")


def counted(page: str) -> float:
    """Return how many requests *page* shows."""
    return sum(map(float, _REQUESTS.findall(page)))
