"""
The demo's server: a real one with workers, on ports that the system chooses, watched and ended.
"""

# Rule 1: only processes of the server's session, and of its exporter's, are signalled, each by its id.
# Rule 2: every wait is bounded, and one that runs out raises with the end of the server's log.

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

WORKERS: Final = 4

T = TypeVar("T")

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.02
_LOG_LINES: Final = 30
# What the route /fail is for, hundreds of times: it would push everything else out of the last lines.
_EXPECTED: Final = re.compile(
    r"^.*Exception on /fail .*\n(?:Traceback.*\n(?:[ \t].*\n)*)?(?:RuntimeError.*\n)?", re.MULTILINE
)

_APPLICATION: Final = "wsgi_prom.demo.application:application"
_ADDRESSES: Final = {
    "uwsgi": re.compile(r"uwsgi socket 0 bound to TCP address (127\.0\.0\.1:\d+)"),
    "gunicorn": re.compile(r"Listening at: http://(127\.0\.0\.1:\d+)"),
}
_METRICS: Final = re.compile(r"wsgi_prom: metrics at (http://\S+)")

# What would make this server another one: settings of ours, of both servers, and of Flask, whose debug mode lets
# the exceptions of a view through to the server.
_FOREIGN: Final = re.compile(r"prometheus_multiproc_dir$|(WSGI_PROM|UWSGI|GUNICORN|FLASK)_", re.IGNORECASE)


class DemoError(WsgiPromError):
    """The demo cannot start, or cannot go on."""


class Server:
    """
    The example application under the server *kind*, `uwsgi` or `gunicorn`, for the length of a `with` block.

    A worker ends after *max_requests* and is replaced. *folder* takes the log. The block starts when all workers and
    the exporter do. Raises DemoError.
    """

    def __init__(self, kind: str, *, max_requests: int, folder: Path) -> None:
        self.kind = kind
        self.address = ""
        self.metrics_url = ""
        self._command = {"uwsgi": _uwsgi, "gunicorn": _gunicorn}[kind](max_requests)
        self._folder = folder
        self._log_path = folder / "server.log"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=_environment(os.environ, self._folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: a Ctrl-C at the terminal is for the demo, which ends the server itself.
                start_new_session=True,
            )
        try:
            self.address = self._match(_ADDRESSES[self.kind])[1]
            self.metrics_url = self._match(_METRICS)[1]
            self.await_workers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def workers(self) -> frozenset[int]:
        """Return the pids of the living workers."""
        # The server leads a session, and the exporter one of its own. Not by their command lines, which gunicorn
        # rewrites where setproctitle is installed.
        own = _Stat(parent=self.pid, session=self.pid)
        return frozenset(pid for pid, stat in _living().items() if stat == own)

    def await_workers(self) -> None:
        """Wait until there are as many workers as there should be."""
        self._await(lambda: len(self.workers()) == WORKERS, f"{WORKERS} workers")

    def await_log(self, text: str) -> str:
        """Wait until *text*, in which `*` stands for a word, is in the log, and return that word."""
        return self._match(re.compile(re.escape(text).replace(r"\*", r"(\S+)")))[1]

    def log_tail(self) -> str:
        """Return the last lines of the log, less what the demo asks for."""
        lines = _EXPECTED.sub("", self._log()).splitlines()[-_LOG_LINES:]
        return "\n".join(["", f"The last {len(lines)} lines of the server's log:", *lines])

    def stop(self) -> None:
        """End the server, and what it started. What does not end when it is asked to is killed."""
        sessions = {self.pid, *(stat.session for stat in _living().values() if stat.parent == self.pid)}
        # The server alone: its workers are its own to end, and the exporter notices by itself that it is gone.
        self._process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        left = self._left(sessions)
        while left and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            left = self._left(sessions)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @staticmethod
    def _left(sessions: set[int]) -> list[int]:
        return [pid for pid, stat in _living().items() if stat.session in sessions]

    def _log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        return self._await(lambda: pattern.search(self._log()), f"line like {pattern.pattern!r}")

    def _await(self, find: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            found = find()
            if found:
                return found
            if not self.running:
                raise DemoError(f"{self.kind} ended with {self._process.returncode}.{self.log_tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.kind}: no {what} in {_START_SECONDS:.0f} s.{self.log_tail()}")
            time.sleep(_POLL_SECONDS)


class _Stat(NamedTuple):
    """What /proc says about a living process."""

    parent: int
    session: int


def program(kind: str) -> str | None:
    """Return the path of the server *kind*: of this environment, whether or not it is activated, or on PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(kind, path=places)


def application_folder() -> Path:
    """Return the folder of the example application: packed into a wheel, or that of a checkout. Raises DemoError."""
    package = Path(__file__).resolve().parent
    places = (package / "flask", package.parent.parent / "examples" / "flask")
    for place in places:
        if (place / "app.py").is_file():
            return place
    tried = " or ".join(map(str, places))
    raise DemoError(f"the example application is missing: there is no app.py in {tried}.")


def _uwsgi(max_requests: int) -> list[str]:
    options = ["--strict", "--master", "--need-app", "--die-on-term", "--single-interpreter"]
    options += ["--disable-logging", "--http-socket", "127.0.0.1:0", "--processes", str(WORKERS)]
    # A worker younger than 10 s is not recycled by default.
    options += ["--max-requests", str(max_requests), "--min-worker-lifetime", "0"]
    options += ["--shared-import", "wsgi_prom.hooks.uwsgi", "--module", "wsgi_prom.wsgi:application"]
    return [program("uwsgi") or "uwsgi", *options]


def _gunicorn(max_requests: int) -> list[str]:
    options = ["--bind", "127.0.0.1:0", "--workers", str(WORKERS), "--max-requests", str(max_requests)]
    options += ["--config", "python:wsgi_prom.hooks.gunicorn", "--graceful-timeout", "10"]
    return [program("gunicorn") or "gunicorn", *options, _APPLICATION]


def _environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if not _FOREIGN.match(name)}
    # The package as it is found here, installed or in a checkout, and the example's own module `app`.
    search = [str(application_folder()), str(Path(__file__).resolve().parents[2]), kept.get("PYTHONPATH", "")]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "PYTHONUNBUFFERED": "1",
        # gunicorn puts its control socket here; in the home directory it would be shared with other servers.
        "XDG_RUNTIME_DIR": str(folder),
        "WSGI_PROM_BIND": "127.0.0.1:0",
        "WSGI_PROM_APP": _APPLICATION,
    }


def _living() -> dict[int, _Stat]:
    # Not /proc/PID/task/*/children, which may leave out a child when another one exits meanwhile (proc(5)).
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name before these fields may itself have blanks and parentheses.
            _, _, fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            state, parent, _, session, *_ = fields.split()
            # One that has ended and waits for its parent to ask is not living.
            if state not in {"Z", "X"}:
                found[int(path.parent.name)] = _Stat(int(parent), int(session))
    return found
