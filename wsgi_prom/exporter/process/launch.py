"""
Start the exporter from a server's master, as a process whose parent is init.

Programs that count the children of a master take each for a worker (Airflow's webserver, Datadog's gunicorn check), and
gunicorn reaps all of them.
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
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.process.watch import send_signal
from wsgi_prom.settings import unknown_variables
from wsgi_prom.store import locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from wsgi_prom.exporter.target import Target
    from wsgi_prom.setting_values import Address

# The variables of the master that the exporter gets. It runs as the workers' user, who may read its environment in /proc, and
# the master's may hold secrets that are not meant for that user. Variables that start a tracing agent are not passed on.
_VARIABLES: Final = re.compile(
    "PATH|LD_LIBRARY_PATH|LANG|LANGUAGE|LC_[A-Z_]+|TZ|TZDIR|TMPDIR|VIRTUAL_ENV|OPENSSL_(CONF|MODULES)"
    "|PYTHON(HOME|PLATLIBDIR|DONTWRITEBYTECODE|PYCACHEPREFIX|UTF8|COERCECLOCALE|MALLOC|UNBUFFERED)|WSGI_PROM_[A-Z_]+"
)

# The program forks before other imports, while it has one thread and little memory; its child lives on as the exporter. With
# --socket it is a serving process that becomes the supervisor, and keeps its pid.
_PROGRAM: Final = (
    "import os, sys; '--socket' in sys.argv or os.fork() and os._exit(0); from wsgi_prom.cli import main; "
    "raise SystemExit(main())"
)
# The settings that say where the page is, who may read it, and who is told of it. Servers that share a directory have one
# exporter.
_ACCESS_VARIABLES: Final = {
    f"WSGI_PROM_{name}"
    for name in ("BIND", "SOCKET_MODE", "ALLOW", "TOKEN_FILE", "WEB_CONFIG", "TARGETS", "SD", "SD_HOST")
}
# Python's own start takes 20 ms. A master waits no longer than this for one that hangs.
_START_SECONDS: Final = 5.0

log = logging.getLogger("wsgi_prom")

# Kept for the life of the master: a Popen that is collected while its process runs is a ResourceWarning.
_started: list[subprocess.Popen[bytes]] = []


def launch(
    path: Path,
    address: Address | None,
    target: Target,
    environ: dict[str, str],
    *,
    reload: bool = False,
    owner: tuple[int, int] | None = None,
    log_file: IO[bytes] | int | None = None,
    parent: int | None = None,
) -> None:
    """
    Start the exporter of *target* in the directory *path*, unless *address* is None or the directory has an exporter.

    *environ* is an `exporter_environment`. A *reload* replaces an exporter of other settings, and ends one without an
    *address*, or that it cannot replace: clients that the new settings exclude could read its page. A server replaces one of a
    process that has joined. The exporter runs as *owner*, writes its log to *log_file* (stderr), and lives as long as *parent*
    (this process). Raises OSError.
    """
    lock_file = LockFile.of(path)
    running = lock_file.holder(locks.EXPORTER)
    if address is None:
        if reload:
            _stop(lock_file)
        return
    reload = reload or (running is not None and _shows_less(running, target))
    if running is not None and not reload:
        _warn_of_other_settings(path, running, environ)
        _warn_of_other_application(path, running, target)
        return
    try:
        command = _command(path, address, target)
        if running and _is_latest(running, command, environ, lock_file):
            return
        command += ["--launch", str(_new_launch(lock_file)), "--parent", str(parent or os.getpid())]
        _start(command + ["--replace"] * reload, environ, owner, log_file)
    except OSError:
        if reload:
            _stop(lock_file)
        raise


def _command(path: Path, address: Address, target: Target) -> list[str]:
    """Return the command of an exporter, less the arguments that differ from launch to launch. Raises OSError."""
    serve = ["serve", "--directory", str(path), "--bind", str(address), *target.arguments()]
    return [_python(), "-P", "-S", "-c", _PROGRAM, *serve]


def _shows_less(running: int, target: Target) -> bool:
    """
    Return whether the exporter *running* was started by a process that has joined, and *target* is a server, of which it shows
    less.
    """
    arguments = _arguments(running)
    return bool(target.server) and "--parent" in arguments and "--server" not in arguments


def _is_latest(running: int, command: list[str], environ: dict[str, str], lock_file: LockFile) -> bool:
    """Return whether the exporter *running* has these settings, and no later one is about to replace it."""
    return _started_with(running) == (
        [*command, "--launch", str(lock_file.number(locks.LAUNCHED))],
        environ,
    )


def was_lost(lock_file: LockFile) -> bool:
    """Return whether the exporter that was started last has come up, and both of its processes are gone."""
    number = lock_file.number(locks.LAUNCHED)
    # In this order: one that has come up since holds the lock.
    return 0 != number == lock_file.number(locks.UP) and lock_file.holder(locks.EXPORTER) is None


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
        # Ctrl-C at the terminal stops the server gracefully, and must not end a scrape of its last requests.
        start_new_session=True,
        **user,
    )
    _started[:] = [process]
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(_START_SECONDS)
        if status:
            raise OSError(f"{command[0]} ended with status {status}")


def _stop(lock_file: LockFile) -> None:
    """End the exporter that runs or is about to."""
    _new_launch(lock_file)
    # Looked up after that: an exporter that takes the lock later sees the new number.
    running = lock_file.holder(locks.EXPORTER)
    if running:
        send_signal(running, signal.SIGTERM)


def _new_launch(lock_file: LockFile) -> int:
    """Return a number for a new launch. Exporters of earlier launches end unless they have the lock already."""
    number = time.monotonic_ns()
    # On a full disk there is no earlier number either, since this one would take its space.
    with suppress(OSError):
        lock_file.set_number(locks.LAUNCHED, number)
    return number


def _warn_of_other_settings(path: Path, running: int, environ: dict[str, str]) -> None:
    """Log which settings of this server the exporter *running* of another server does not have."""
    given = _started_with(running)
    names = sorted(name for name in _ACCESS_VARIABLES if given and environ.get(name) != given[1].get(name))
    if names:
        log.warning(
            "the exporter of %s (pid %d) was started with other settings (%s) and keeps them. Give all servers of the "
            "directory the same settings, and reload the one that started the exporter",
            path, running, ", ".join(names),
        )  # fmt: skip


def _warn_of_other_application(path: Path, running: int, target: Target) -> None:
    """Log that the exporter *running* was started for another application, which is often a mistake."""
    arguments = _arguments(running)
    other = dict(pairwise(arguments)).get("--application", "")
    if target.application not in {"", other} and other:
        log.warning(
            "%s is the directory of %s as well: the page shows both applications as one. Unless they are one, give this server "
            "a directory of its own: unset PROMETHEUS_MULTIPROC_DIR and WSGI_PROM_NAME, or set them to another value",
            path, other,
        )  # fmt: skip


def exporter_environment() -> dict[str, str]:
    """Return the environment of an exporter that is started from this process."""
    # Without unknown variables of ours, of which the server itself has warned.
    names = {name for name in os.environ if _VARIABLES.fullmatch(name)} - unknown_variables(os.environ).keys()
    # The exporter finds the same modules as this process, and none in the working directory, where a module of the
    # application may have the name of one of ours. Since it starts without `site` (-S), no sitecustomize starts an agent in
    # it, as those of ddtrace, New Relic and OpenTelemetry do.
    search = os.pathsep.join(str(Path(item).absolute()) for item in sys.path if item)
    return {**{name: os.environ[name] for name in names}, "PYTHONPATH": search}


def _started_with(pid: int) -> tuple[list[str], dict[str, str]] | None:
    """Return the arguments and environment that the exporter *pid* was started with, None if they cannot be read."""
    arguments = _arguments(pid)
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has just ended, or /proc is hidden
        return None
    # --parent and what follows it do not change what is served.
    if "--parent" in arguments:
        arguments = arguments[: arguments.index("--parent")]
    pairs = [item.partition("=") for item in os.fsdecode(environ).split("\0") if item]
    return arguments, {name: value for name, _, value in pairs}


def _arguments(pid: int) -> list[str]:
    """Return the command line of the process *pid*, empty if it cannot be read."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return os.fsdecode(command).split("\0")[:-1]


def _python() -> str:
    # Under uWSGI sys.executable is the uwsgi binary.
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    # Only of this environment: another Python, even of the same version, may not load the library's compiled modules.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = (
        Path(prefix, "bin", name)
        for prefix in (sys.prefix, sys.base_prefix)
        for name in (version, "python3", "python")
    )
    python = next((path for path in places if os.access(path, os.X_OK)), None)
    if python is None or getattr(sys, "frozen", False):
        raise OSError(
            f"there is no {version} that has the modules of {sys.executable}: run wsgi-prom serve beside it, "
            "from an environment with wsgi-prom in it"
        )
    return str(python)
