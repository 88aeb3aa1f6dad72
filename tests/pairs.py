"""
Pairs of servers that differ in one thing: one serves an application bare, the other measured.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

import live

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from live import LiveServer, Samples

APP: Final = "protocol:app"
MEASURED: Final = "wsgi_prom.wsgi:application"

STANDALONE: Final = ("wsgiref", "waitress", "cheroot")
GUNICORN: Final[dict[str, tuple[str, ...]]] = {
    "gunicorn sync": (),
    "gunicorn gthread": ("--threads", "2"),
    "gunicorn gevent": ("--worker-class", "gevent"),
}
# Sent at once, as the other servers have it: what waits for an acknowledgement is lost when the server closes while there
# is something that it has not read, which resets the connection (tried: one in ten answers to HEAD lost its last chunk).
UWSGI: Final[dict[str, tuple[str, ...]]] = {
    "uwsgi prefork": (),
    "uwsgi threads": ("--enable-threads", "--threads", "2"),
    "uwsgi gevent": ("--gevent", "10", "--gevent-monkey-patch"),
    # The one of its sockets that keeps connections open.
    "uwsgi keep-alive": ("--http11-socket", "127.0.0.1:0"),
}
FORKING: Final = [*GUNICORN, *UWSGI]
ALL: Final = [*STANDALONE, *FORKING]

# They close each connection after its answer, whatever the client asks for.
CLOSING: Final = frozenset({"wsgiref", "gunicorn sync", "uwsgi prefork", "uwsgi threads", "uwsgi gevent"})

SECOND_SOCKET: Final = re.compile(r"uwsgi socket 1 bound to TCP address (\S+:\d+)")


class Pair(NamedTuple):
    """
    Two running servers, their URLs, and the files in which their application notes its events.
    """

    name: str
    bare: LiveServer
    measured: LiveServer
    events: dict[str, Path]

    def urls(self) -> dict[str, str]:
        return {"bare": self._url(self.bare), "measured": self._url(self.measured)}

    def metrics(self) -> str:
        """
        Scrape the measured one: its exporter, or its own path where there is no hook.
        """
        if self.name not in STANDALONE:
            return self.measured.scrape()
        answer = self.measured.get("/metrics")
        assert answer.status == 200, answer.body
        return answer.body.decode()

    def samples(self) -> Samples:
        """Scrape, and return all samples but those of buckets, which take long to parse on a page of so many routes."""
        return live.parse_samples(re.sub(r"(?m)^\w+_bucket\{.*\n", "", self.metrics()))

    def in_progress(self) -> float:
        # Asked so often that the rest of the page is not parsed for it.
        found = re.search(r"(?m)^http_requests_in_progress (\S+)$", self.metrics())
        return float(found[1]) if found else 0.0

    def noted(self, which: str) -> list[str]:
        """
        Return the lines that the *which* application has noted.
        """
        return self.events[which].read_text().splitlines()

    def _url(self, server: LiveServer) -> str:
        if self.name != "uwsgi keep-alive":
            return server.url
        return "http://" + server.wait_for_log(SECOND_SOCKET)[1]


class Fleet:
    """
    Pairs by name, each started when it is first used and kept until the end of the `with` block, since tests run in any
    order.
    """

    def __init__(self, folder: Path, make: Callable[..., LiveServer] | None = None) -> None:
        self._folder = folder
        self._make = make or server
        self._pairs: dict[str, Pair] = {}
        self._pool = ThreadPoolExecutor(2 * len(ALL))
        self._servers: list[LiveServer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Side by side: each takes a while to end.
        list(self._pool.map(lambda server: server.__exit__(None, None, None), self._servers))
        self._pool.shutdown()

    def __getitem__(self, name: str) -> Pair:
        if name not in self._pairs:
            self._pairs[name] = self._start(name)
        return self._pairs[name]

    def _start(self, name: str) -> Pair:
        events = {which: self._folder / f"{name} {which}" for which in ("bare", "measured")}
        for path in events.values():
            path.touch()
        servers = [self._make(name, which, PROTOCOL_EVENTS=str(path)) for which, path in events.items()]
        self._servers += servers
        list(self._pool.map(live.LiveServer.start, servers))
        return Pair(name, *servers, events)


def server(name: str, which: str, **env: str) -> LiveServer:
    """
    Return the server called *name*, not yet started: *which* is "bare" or "measured".
    """
    bare = which == "bare"
    if name in GUNICORN:
        if bare:
            return live.gunicorn(APP, *GUNICORN[name], workers=1, config=None, **env)
        return live.gunicorn(APP, *GUNICORN[name], workers=1, **env)
    if name in UWSGI:
        if bare:
            return live.uwsgi(
                "--tcp-nodelay", *UWSGI[name], workers=1, module=APP, app=None, hook=None, **env
            )
        return live.uwsgi("--tcp-nodelay", *UWSGI[name], workers=1, module=MEASURED, app=APP, **env)
    target = APP if bare else MEASURED
    settings = {} if bare else {"WSGI_PROM_APP": APP, "WSGI_PROM_METRICS_PATH": "/metrics"}
    return live.LiveServer(
        [sys.executable, "-c", f"import standalone; standalone.serve({name!r}, {target!r})"],
        env={"WSGI_PROM_BIND": None, **settings, **env},
        ready=(live.GUNICORN_LINE, 1),
        address=live.GUNICORN_LINE,
    )
