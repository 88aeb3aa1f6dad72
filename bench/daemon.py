"""
Real servers under benchmarks: on ports that the system chooses, watched through their log, ended with all they started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

BIN: Final = Path(sys.executable).parent

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02

_METRICS: Final = re.compile(r"wsgi_prom: metrics at (http://\S+)")


class Daemon:
    """
    A server, for the length of a `with` block, which begins when *ready* is in its log *times* times.

    *address* is the pattern of the log whose first group is the application's host and port.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        times: int,
        address: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._ready = re.compile(ready)
        self._times = times
        self._address = re.compile(address)
        self._environ = environ or {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            self._log_path = Path(folder) / "log"
            inherited = {
                name: value for name, value in os.environ.items() if not name.startswith("WSGI_PROM_")
            }
            inherited.pop("PROMETHEUS_MULTIPROC_DIR", None)
            # gunicorn keeps a socket in its runtime directory, which would be the same for all.
            own = {"WSGI_PROM_BIND": "127.0.0.1:0", "PYTHONUNBUFFERED": "1", "XDG_RUNTIME_DIR": folder}
            with self._log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=FOLDER,
                    env={**inherited, **own, **self._environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            stack.callback(self._end)
            self._found(self._ready, self._times)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self._found(self._address)[1].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}/"

    @property
    def metrics_url(self) -> str:
        """Where the exporter listens that the hook has started."""
        return self._found(_METRICS)[1]

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """Return the CPU that the server and its workers have taken so far, the exporter not among them."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # Those after the name, which may hold blanks: state, ppid, pgrp, session; then user and system time.
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _found(self, pattern: re.Pattern[str], times: int = 1) -> re.Match[str]:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = self._process.poll() is not None
            log = self.log()
            found = list(pattern.finditer(log))
            if len(found) >= times:
                return found[-1]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command}: no {pattern.pattern!r} in the log:\n{log}")
            time.sleep(_POLL_SECONDS)

    def _end(self) -> None:
        # The exporter is of another session, and ends by itself when its server does.
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # Not waited for yet: the group's number is nobody else's.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)


def gunicorn(
    application: str, *options: str, workers: int, hook: bool, environ: Mapping[str, str] | None = None
) -> Daemon:
    """Return a gunicorn that serves *application*, a module of this folder, with our hook or without."""
    command = [str(BIN / "gunicorn"), "--bind", "127.0.0.1:0", "--workers", str(workers)]
    command += ["--config", "python:wsgi_prom.hooks.gunicorn"] if hook else []
    return Daemon(
        [*command, *options, application],
        ready="Booting worker with pid",
        times=workers,
        address=r"Listening at: http://(\S+:\d+)",
        environ=environ,
    )


def uwsgi(application: str, *options: str, workers: int, hook: bool) -> Daemon:
    """Return a uWSGI that serves *application*, a module of this folder, with our hook or without."""
    command = [str(BIN / "uwsgi"), "--http-socket", "127.0.0.1:0", "--master", "--need-app", "--die-on-term"]
    command += ["--disable-logging", "--processes", str(workers)]
    module = application
    if hook:
        command += ["--shared-import", "wsgi_prom.hooks.uwsgi"]
        module = "wsgi_prom.wsgi:application"
    return Daemon(
        [*command, "--module", module, *options],
        ready=r"spawned uWSGI worker \d+",
        times=workers,
        address=r"uwsgi socket 0 bound to TCP address (\S+:\d+)",
        environ={"WSGI_PROM_APP": application},
    )
