"""Starting the exporter process from a server's master."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wsgi_prom.settings import unknown_variables
from wsgi_prom.storage import locks
from wsgi_prom.storage.locks import Locks

if TYPE_CHECKING:
    from wsgi_prom.settings import Address

# Kept for the life of the master: a Popen that is collected while its process runs is a ResourceWarning.
_started: list[subprocess.Popen[bytes]] = []


def launch(
    path: Path,
    address: Address | None,
    *,
    owner: tuple[int, int] | None = None,
    log_file: IO[bytes] | int | None = None,
) -> None:
    """
    Start the exporter of *path*, unless there is none to be or it runs already (a reload).

    It runs as *owner*, a uid and a gid, by default as the caller, and writes its log to *log_file*, by default to
    stderr. Does not wait for it: if it cannot listen, that is in its log. Raises OSError.
    """
    if address is None or Locks.of(path).holder(locks.EXPORTER) is not None:
        return
    command = [_python(), "-c", "from wsgi_prom.cli import main; raise SystemExit(main())", "serve"]
    command += ["--directory", str(path), "--bind", str(address), "--parent", str(os.getpid())]
    user: dict[str, Any] = {}
    if owner is not None and os.geteuid() == 0:
        user = {"user": owner[0], "group": owner[1], "extra_groups": []}
    # The same modules as here, however the server found them, and none from the working directory, where an
    # application's own module may have the name of one of ours.
    search = os.pathsep.join(os.path.abspath(item) for item in sys.path if item)  # noqa: PTH100 - not resolved
    # What the settings warn of is said by the server already.
    unknown = unknown_variables(os.environ)
    environ = {name: value for name, value in os.environ.items() if name not in unknown}
    environ["PYTHONPATH"] = search
    _started[:] = [
        subprocess.Popen(
            command,
            cwd="/",
            env=environ,
            stdin=subprocess.DEVNULL,
            stderr=log_file,
            # Not the terminal's: a Ctrl-C that the server takes as a graceful stop must not end its last scrape.
            start_new_session=True,
            **user,
        )
    ]


def _python() -> str:
    # Under uWSGI sys.executable is the uwsgi binary.
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    names = (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python")
    found = (Path(sys.prefix) / "bin" / name for name in names)
    return str(next((path for path in found if os.access(path, os.X_OK)), "python3"))
