"""
The environment variables that name the shared directory: the user's, and the one by which a server tells its own processes.

The client library's variable makes every program below the server that uses the library write files of 64 kB into the
directory (uWSGI's cron and attach-daemon, subprocesses: 220 commands left 558 files, and with 2 MB of /dev/shm the
kernel ended 51 of them by SIGBUS). So a directory that the hook made is not in the environment that programs inherit.

1. The user's variable is never changed. A directory that the hook made is in `os.environ` alone, where the application's
   code and the exporters of frameworks look for it.
2. Programs inherit a variable of this package, with the pid of the server's master, so that another server that is
   started below does not take the directory for its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom import setting_values, settings

if TYPE_CHECKING:
    from collections.abc import MutableMapping

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_NAME: Final = "WSGI_PROM_NAME"
# Not with the prefix of the settings: nobody sets it.
_SERVER: Final = "_WSGI_PROM_SERVER"


def configured() -> Path | None:
    """
    Return the directory that the user has named. It is looked up at each call: nothing depends on import order.

    A copy of a server's own `os.environ`, as `subprocess.run(..., env={**os.environ})` passes it on, names that
    server's: it is not the user's.
    """
    value = os.environ.get(VARIABLE)
    if not value or value == _announced()[1]:
        return None
    return Path(value)


def name() -> str | None:
    """Return the setting `name` as the environment has it now; None for an invalid one, which is an error at the start."""
    try:
        return setting_values.name(os.environ[_NAME])
    except (KeyError, ValueError):
        return None


def show(path: Path) -> None:
    """
    Let code of this interpreter find *path* in `os.environ`, where the user has named none, but no program that it starts.
    """
    if configured() is None:
        os.environ[VARIABLE] = str(path)
        # os.environ keeps it: only its own deletions go both ways (documented at os.unsetenv).
        os.unsetenv(VARIABLE)


def announce(path: Path, environ: MutableMapping[str, str] | None = None) -> None:
    """
    Name *path* in *environ*, by default this process's, as the directory of the server whose master this process is.

    For what comes after an exec (gunicorn's USR2, uWSGI's reload) and for other interpreters, whose `os.environ` is made
    of what programs inherit.
    """
    environ = os.environ if environ is None else environ
    environ[_SERVER] = f"{os.getpid()} {path}"
    if environ is not os.environ and environ.get(VARIABLE) == str(path):
        del environ[VARIABLE]


def of_program(role: str, name: str | None, startup: str) -> dict[str, str]:
    """
    Return the environment of a program whose Python processes join as *role*, by the sitecustomize in the folder *startup*.

    It is for a program that takes the place of this process. *name* is the setting `name`, None to leave it.
    """
    path = os.pathsep.join(filter(None, [startup, os.environ.get("PYTHONPATH")]))
    named = {} if name is None else {_NAME: name}
    return {**os.environ, **named, "PYTHONPATH": path, settings.RUN: f"{os.getpid()} {role}"}


def announced(master: int | None = None) -> Path | None:
    """Return the directory of the server that this process belongs to, only if its master is *master* where that is given."""
    pid, path = _announced()
    named = configured()
    if not path or master not in {None, pid}:
        return None
    # A process that was started with a directory of the user's choice records there. Ours may be below it.
    return Path(path) if named is None or Path(path).is_relative_to(named) else None


def _announced() -> tuple[int, str]:
    """Return the pid of the master that has announced a directory to this process, and the directory; 0 and nothing for none."""
    pid, _, path = os.environ.get(_SERVER, "").partition(" ")
    return (int(pid), path) if pid.isdecimal() and path.startswith("/") else (0, "")


def is_of_run() -> bool:
    """Return whether `wsgi-prom run` has started this process, or one that has started it."""
    return settings.RUN in os.environ
