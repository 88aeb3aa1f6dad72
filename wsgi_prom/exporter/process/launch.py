"""
Starting the exporter from a server's master, as a process of its own: nobody's child but init's.

What counts the children of a master takes each for a worker (Airflow's webserver, Datadog's gunicorn check), and gunicorn
reaps them all.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.process.life import terminate
from wsgi_prom.exporter.target import Target
from wsgi_prom.settings import unknown_variables
from wsgi_prom.store import locks
from wsgi_prom.store.locks import Locks

if TYPE_CHECKING:
    from wsgi_prom.settings import Address

# All that the exporter gets of the master's environment. It runs as the workers' user, who may read it in /proc, and
# root's may hold what is not meant for that user. Nor does it get what would start an agent of tracing in it.
_VARIABLES: Final = re.compile(
    "PATH|LD_LIBRARY_PATH|LANG|LANGUAGE|LC_[A-Z_]+|TZ|TZDIR|TMPDIR|VIRTUAL_ENV|OPENSSL_(CONF|MODULES)"
    "|PYTHON(HOME|PLATLIBDIR|DONTWRITEBYTECODE|PYCACHEPREFIX|UTF8|COERCECLOCALE|MALLOC|UNBUFFERED)|WSGI_PROM_[A-Z_]+"
)

# The child goes on when its parent has ended. Before anything else is imported: a fork of one thread, and of little memory.
_PROGRAM: Final = (
    "import os; os.fork() and os._exit(0); from wsgi_prom.cli import main; raise SystemExit(main())"
)
# What says who may read the page, and where it is. Servers that share a directory have one exporter.
_OF_READERS: Final = tuple(
    f"WSGI_PROM_{name}"
    for name in (
        "BIND", "SOCKET_MODE", "ALLOW", "TOKEN_FILE", "WEB_CONFIG",
    )
)  # fmt: skip
# Python's own start takes 20 ms. A master that starts waits no longer than this for one that hangs.
_START_SECONDS: Final = 5.0

log = logging.getLogger("wsgi_prom")

# Kept for the life of the master: a Popen that is collected while its process runs is a ResourceWarning.
_started: list[subprocess.Popen[bytes]] = []


def launch(
    path: Path,
    address: Address | None,
    *,
    reload: bool = False,
    target: Target | None = None,
    owner: tuple[int, int] | None = None,
    log_file: IO[bytes] | int | None = None,
    parent: int | None = None,
) -> None:
    """
    Start the exporter of *path*, unless there is none to be or it runs already.

    At a *reload* one that was given something else (another address, say, or no token) is replaced by one that is given
    this, and one that is not to be any more is ended, or cannot be replaced: its page would be open to those whom the new
    settings exclude. *target* says whose metrics they are. It runs as *owner*, a uid and a gid, by default as the caller,
    and writes its log to *log_file*, by default to stderr. It lives as long as the process *parent*, by default this one.
    Does not wait for it: if it cannot listen, that is in its log. Raises OSError.
    """
    lock_file = Locks.of(path)
    running = lock_file.holder(locks.EXPORTER)
    environ = _environment()
    if running is not None and not reload:
        if address is not None:
            _warn_of_other_settings(path, running, environ)
        return
    if address is None:
        if reload:
            _call_off(lock_file)
        return
    try:
        command = [_python(), "-P", "-S", "-c", _PROGRAM, "serve", "--directory", str(path)]
        command += ["--bind", str(address), *(target or Target()).arguments()]
        # One that runs with these settings is the right one if no other is on its way.
        if running and _given(running) == ([*command, "--launch", str(lock_file.launch())], environ):
            return
        command += ["--launch", str(_number(lock_file)), "--parent", str(parent or os.getpid())]
        _start(command + ["--replace"] * reload, environ, owner, log_file)
    except OSError:
        if reload:
            _call_off(lock_file)
        raise


def _start(
    command: list[str],
    environ: dict[str, str],
    owner: tuple[int, int] | None,
    log_file: IO[bytes] | int | None,
) -> None:
    user: dict[str, Any] = {}
    if owner is not None and os.geteuid() == 0:
        user = {"user": owner[0], "group": owner[1], "extra_groups": []}
    process = subprocess.Popen(
        command,
        cwd="/",
        env=environ,
        stdin=subprocess.DEVNULL,
        stderr=log_file,
        # Not the terminal's: a Ctrl-C that the server takes as a graceful stop must not end its last scrape.
        start_new_session=True,
        **user,
    )
    _started[:] = [process]
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(_START_SECONDS)
        if status:
            raise OSError(f"{command[0]} ended with status {status}")


def _call_off(lock_file: Locks) -> None:
    """End the exporter that runs, or is on its way."""
    _number(lock_file)
    # Asked after that: one that comes up later sees the number.
    running = lock_file.holder(locks.EXPORTER)
    if running:
        terminate(running, signal.SIGTERM)


def _number(lock_file: Locks) -> int:
    """Return a number for the exporter that is started now. Those of before end if they have not come up yet."""
    number = time.monotonic_ns()
    # A full disk, on which there is no number of before either: it would have the space.
    with suppress(OSError):
        lock_file.set_launch(number)
    return number


def _warn_of_other_settings(path: Path, running: int, environ: dict[str, str]) -> None:
    """Say which settings of this server the exporter *running*, which another server has started, does not have."""
    given = _given(running)
    if given is None:
        return
    names = sorted(name for name in _OF_READERS if environ.get(name) != given[1].get(name))
    if names:
        log.warning(
            "the exporter of %s (pid %d) was started with other settings (%s) and keeps them. Give all servers of the "
            "directory the same settings, and reload the one that started the exporter",
            path, running, ", ".join(names),
        )  # fmt: skip


def _environment() -> dict[str, str]:
    # What the settings warn of is said by the server already.
    unknown = unknown_variables(os.environ)
    given = {
        name: value
        for name, value in os.environ.items()
        if _VARIABLES.fullmatch(name) and name not in unknown
    }
    # The same modules as here, however the server found them, and none from the working directory, where an
    # application's own module may have the name of one of ours. It is all that the exporter needs: without `site` (-S)
    # no sitecustomize starts an agent there, as those of ddtrace, New Relic and OpenTelemetry do.
    search = os.pathsep.join(os.path.abspath(item) for item in sys.path if item)  # noqa: PTH100 - not resolved
    return {**given, "PYTHONPATH": search}


def _given(pid: int) -> tuple[list[str], dict[str, str]] | None:
    """Return the arguments and the environment that the exporter *pid* was started with, None if they cannot be read."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has just ended, or /proc is hidden
        return None
    pairs = [item.partition("=") for item in os.fsdecode(environ).split("\0") if item]
    return _arguments(os.fsdecode(command).split("\0")[:-1]), {name: value for name, _, value in pairs}


def _arguments(command: list[str]) -> list[str]:
    """Return what of *command* says what to serve: all before the server's pid."""
    return command[: command.index("--parent")] if "--parent" in command else command


def _python() -> str:
    # Under uWSGI sys.executable is the uwsgi binary.
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    # That one alone: another, of the same version even, may not load the library's modules that are compiled.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = (Path(prefix) / "bin" for prefix in (sys.prefix, sys.base_prefix))
    found = (place / name for place in places for name in (version, "python3", "python"))
    python = next((path for path in found if os.access(path, os.X_OK)), None)
    if python is None or getattr(sys, "frozen", False):
        raise OSError(
            f"there is no {version} that has the modules of {sys.executable}: run wsgi-prom serve beside it, "
            "from an environment with wsgi-prom in it"
        )
    return str(python)
