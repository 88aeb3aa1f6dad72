"""`wsgi-prom check` for tests: forks of one process that has imported it and no application, since its imports take longer than it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import live

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

# Run before the command: tells on stderr of all that Python leaves in the world outside. A socket is closed again.
WITNESS: Final = """
import os, sys
def witness(event, arguments):
    made = event in {"os.mkdir", "os.rename", "os.remove", "os.chmod", "os.chown", "os.truncate", "os.link", "os.symlink",
                     "os.fork", "os.posix_spawn", "subprocess.Popen", "fcntl.lockf",
                     "fcntl.flock", "os.rmdir", "shutil.rmtree", "tempfile.mkdtemp"}
    # By its path: that a descriptor is opened again tells nothing of what it is.
    written = event == "open" and not isinstance(arguments[0], int) and isinstance(arguments[2], int) and (
        arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    # A unix socket's file.
    written = written or (event == "socket.bind" and not isinstance(arguments[1], tuple))
    # Byte code of the package itself, before it has any: that of the application is looked for in its folder. `make coverage`
    # writes what was reached.
    if (made or written) and not any(name in str(arguments) for name in ("__pycache__", ".coverage-data")):
        print("MADE", event, arguments[:2], file=sys.stderr)
"""
_CHECK: Final = f"""{WITNESS}
sys.addaudithook(witness)
from wsgi_prom.cli import main
sys.exit(main(["check", *sys.argv[1:]]))
"""
# An order is a line of JSON; its answer is the exit status. The child is what a process of _CHECK is: environment, working
# directory, path of modules.
_FORKING: Final = f"""{WITNESS}
import json
import wsgi_prom.cli.check
from wsgi_prom.cli import main
own = sys.path[1:]
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        sys.path[1:] = [*order["env"]["PYTHONPATH"].split(":"), *own]
        for fd in (1, 2):
            os.dup2(os.open(f"{{order['folder']}}/{{fd}}", os.O_WRONLY | os.O_CREAT), fd)
        sys.addaudithook(witness)
        sys.exit(main(["check", *order["arguments"]]))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def check(
    *arguments: str, cwd: Path = live.APPS, path: tuple[Path, ...] = (live.ROOT,), **env: str
) -> subprocess.CompletedProcess[str]:
    """Check in a process of its own. Python finds modules in *cwd* and in *path*."""
    return subprocess.run(
        [sys.executable, "-c", _CHECK, *arguments], env=_environment(env, path), cwd=cwd,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Checker:
    """The process that forks for each check, for the length of a `with` block."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKING], env=_environment({}, (live.ROOT,)), cwd=live.ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def __call__(
        self, *arguments: str, cwd: Path = live.APPS, path: tuple[Path, ...] = (live.ROOT,), **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Do what `check` does; for what is decided when the package is imported, that is the one to ask."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            order: dict[str, Any] = {
                "arguments": arguments, "cwd": str(cwd), "env": _environment(env, path), "folder": folder,
            }  # fmt: skip
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            out, told = ((Path(folder) / name).read_text() for name in ("1", "2"))
        return subprocess.CompletedProcess(arguments, status, out, told)


def _environment(env: Mapping[str, str], path: tuple[Path, ...]) -> dict[str, str]:
    # Byte code is written unless something keeps Python from it.
    changes = {
        "PYTHONDONTWRITEBYTECODE": None,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        **env,
    }
    return live.environment(changes, runtime=live.ROOT)
