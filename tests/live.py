"""
Real servers for tests, what is asked of them over HTTP, and what their pages say.

Starting a server sends no request: tests assert exact counts, so readiness is read from the log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from clients import REQUEST_SECONDS, Driven, Response, drive, request
from samples import Labels, Samples, labelled, parse_samples
from users import for_any_user, user_id

from runner.environment import BIN, ROOT
from runner.environment import environment as runner_environment
from runner.proc import command_line, initial_environment, living, parent, stat_fields
from runner.server import GUNICORN_LINE, METRICS_LINE, UWSGI_LINE, Server
from runner.waits import START_SECONDS, STOP_SECONDS, T, eventually, latest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = [
    "APPS", "BIN", "GUNICORN_LINE", "METRICS_LINE", "REQUEST_SECONDS", "ROOT", "START_SECONDS", "STOP_SECONDS",
    "UWSGI_LINE", "Driven", "Labels", "LiveServer", "Response", "Samples", "T", "command_line", "drive", "environment",
    "eventually", "for_any_user", "gunicorn", "hold_port", "initial_environment", "labelled", "latest", "living",
    "own_host", "parent", "parse_samples", "request", "stat_fields", "user_id", "uwsgi",
]  # fmt: skip

APPS: Final = ROOT / "tests" / "apps"


class LiveServer(Server):
    """
    A server that finds the applications of tests/apps. Its log is printed when the `with` block raises.
    """

    module_folders = (APPS,)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None:
            print(f"--- log of {' '.join(self.command)}\n{self.log()}", file=sys.stderr)

    def stop(self) -> None:
        """
        Stop the server, and its exporter too, which waits 20 s for others to leave the directory of a name unless it is told to end.
        """
        if self._env.get("WSGI_PROM_NAME") and self._process is not None and self.running:
            exporters = [pid for pid in self.processes() if " serve --directory " in command_line(pid)]
            self.kill(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.wait()
            for pid in exporters:
                with suppress(ValueError, ProcessLookupError):  # it has ended
                    self.signal_child(pid, signal.SIGTERM)
        super().stop()

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        base: str | None = None,
    ) -> Response:
        """
        Send one request on a connection of its own; *base* is the URL of a server other than the application's.
        """
        return request((base or self.url).rstrip("/") + path, method=method, headers=headers, body=body)

    def scrape(self) -> str:
        """
        Return the exporter's page.
        """
        url = self.metrics_url
        answer = request(url)
        if answer.status != 200:
            raise RuntimeError(f"{url}: status {answer.status}: {answer.body[:500]!r}")
        return answer.body.decode()

    def samples(self) -> Samples:
        return parse_samples(self.scrape())


def gunicorn(app: str = "plain:app", *options: str, **more: object) -> LiveServer:
    """
    Return a gunicorn that serves *app*. *more* is described at `Server.gunicorn`.
    """
    return LiveServer.gunicorn(app, *options, **more)  # type: ignore[arg-type]


def uwsgi(*options: str, app: str | None = "plain:app", **more: object) -> LiveServer:
    """
    Return a uWSGI that serves *app*. *more* is described at `Server.uwsgi`.
    """
    return LiveServer.uwsgi(app, *options, **more)  # type: ignore[arg-type]


def environment(env: Mapping[str, str | None], *, runtime: Path) -> dict[str, str]:
    """
    Return the environment of a program under test that no LiveServer starts, and that finds the applications too.
    """
    return runner_environment(env, module_folders=(APPS,), runtime=runtime)


def own_host() -> str:
    """
    Return a loopback address that no other process of the tests uses: nobody else listens there when a port of it is free again.
    """
    pid = os.getpid()
    return f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"


def hold_port() -> socket.socket:
    """
    Return a socket bound to a free port, for a server that cannot report the port that the system chose.

    Keep it open while that server runs: Linux lets a second socket bind and listen as long as both have SO_REUSEADDR
    and this one does not listen, and gives the port to nobody who asks for any (tried: nginx, waitress, 3000 binds).
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # All addresses, so that the port is free whichever of them the server listens on.
    holder.bind(("", 0))
    return holder
