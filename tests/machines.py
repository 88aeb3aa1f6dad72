"""
A systemd of one's own: process 1 of a pid namespace, with the network, the mounts and the cgroups of a small machine.

Units are run by it as they stand. Nothing of it is seen outside, and all of it ends with the `with` block.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import live

if TYPE_CHECKING:
    from collections.abc import Mapping

# $1 is the cgroup that was made for this machine: its namespace shows it as the root.
_BOOT: Final = """
echo $$ > "$1/cgroup.procs"
exec unshare --cgroup --mount --pid --fork --kill-child --uts --ipc --net sh -euc '
mount --make-rprivate /
mount -t proc proc /proc
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /run /srv /var/log /etc/systemd/system; do mount -t tmpfs -o mode=0755 machine "$folder"; done
mkdir /run/lock
cp -R "$1/." /
container=wsgi-prom-test exec /lib/systemd/systemd --system --unit=machine.target --log-target=null --show-status=no
' sh "$2"
"""
# Starts nothing: what units need of a machine is here, and what the machine has installed stays off.
_TARGET: Final = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"


class Machine:
    """
    A machine with *files*, text by absolute path below /etc/systemd/system, /run or /srv, and *links* there.

    Services find this test's Python, wherever it lies, and append what they log to the file that `log` returns.
    """

    def __init__(self, files: Mapping[str, str], links: Mapping[str, Path]) -> None:
        self._stack = contextlib.ExitStack()
        self._files = files
        self._links = links
        self._folder = Path()
        self._server: live.LiveServer | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="machine-")))
            self._folder.chmod(0o755)
            self._write()
            group = _new_cgroup(self._folder.name)
            stack.callback(_remove, group)
            command = ["sh", "-euc", _BOOT, "sh", str(group), str(self._folder / "root")]
            self._server = stack.enter_context(live.LiveServer(command))
            stack.callback(self._end)
            live.eventually(self._up, bool)
            if not self._up():
                raise PermissionError(f"systemd does not start in a namespace: {self._server.log()}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, *command: str, check: bool = True) -> str:
        """Run *command* on the machine as root, and return what it prints. Raises AssertionError if it fails."""
        done = subprocess.run(
            [*self._enter(), *command], capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        assert not check or done.returncode == 0, (
            f"{shlex.join(command)}: {done.stderr}{done.stdout}{self.log()}"
        )
        return done.stdout + (done.stderr if not check else "")

    def shows(self, unit: str, *names: str) -> list[str]:
        """Return properties of a unit."""
        return [
            self.run("systemctl", "show", "--value", f"--property={name}", unit).strip() for name in names
        ]

    def processes(self, unit: str) -> list[int]:
        """Return the pids, as the machine has them, of all processes of a unit."""
        (group,) = self.shows(unit, "ControlGroup")
        found = self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs", check=False) if group else ""
        # Without processes a unit's cgroup is removed.
        return [int(pid) for pid in found.split() if pid.isdigit()]

    def status(self, pid: int) -> dict[str, str]:
        """Return what /proc says of a process, as the machine numbers it."""
        lines = self.run("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def log(self) -> str:
        """Return what the services have logged."""
        return (self._folder / "log").read_text()

    def _write(self) -> None:
        (self._folder / "log").touch()
        (self._folder / "log").chmod(0o666)
        files = {**self._files, "/etc/systemd/system/machine.target": _TARGET}
        for path in self._files:
            if path.endswith((".service", ".socket")):
                # What every unit of a whole machine waits for: mounts, devices, the journal.
                files[f"{path}.d/alone.conf"] = "[Unit]\nDefaultDependencies=no\n"
            if path.endswith(".service"):
                files[f"{path}.d/test.conf"] = self._drop_in()
        for path, text in files.items():
            file = self._folder / "root" / path.removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for path, target in self._links.items():
            link = self._folder / "root" / path.removeprefix("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    def _drop_in(self) -> str:
        """Return what the units of this test have beside their own: a log, and Python, where ProtectHome would hide it."""
        needed = sorted({sys.base_prefix, sys.prefix, str(live.ROOT)})
        hidden = [path for path in needed if path.startswith(("/root/", "/home/"))]
        lines = ["[Service]", "Environment=PYTHONDONTWRITEBYTECODE=1",
                 *[f"Standard{stream}=append:{self._folder / 'log'}" for stream in ("Output", "Error")]]  # fmt: skip
        if hidden:
            lines += ["ProtectHome=tmpfs", *[f"BindReadOnlyPaths={path}" for path in hidden]]
        return "\n".join([*lines, ""])

    def _first(self) -> int:
        """Return the pid of the machine's systemd."""
        assert self._server is not None
        return next(iter(self._server.children()), 0)

    def _enter(self) -> list[str]:
        return [
            "nsenter",
            f"--target={self._first()}",
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
        ]

    def _up(self) -> bool:
        assert self._server is not None
        if not self._server.running:
            return False
        done = subprocess.run(
            [*self._enter(), "systemctl", "is-active", "machine.target"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode == 0

    def _end(self) -> None:
        assert self._server is not None
        # unshare passes no signal on. What is killed here is process 1, and with it all of the machine.
        self._server.kill(9)


def _new_cgroup(name: str) -> Path:
    """Make a cgroup below this process's own, in the hierarchy of version 2, which is beside others on some machines."""
    groups = [
        line.split("::")[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if "::" in line
    ]
    base = Path("/sys/fs/cgroup/unified")
    path = (base if base.exists() else base.parent) / groups[0].removeprefix("/") / name
    path.mkdir()
    return path


def _remove(group: Path) -> None:
    """Remove a cgroup and those below it once their processes are gone."""

    def gone() -> bool:
        with contextlib.suppress(OSError):
            for path, _, _ in os.walk(group, topdown=False):
                Path(path).rmdir()
        return not group.exists()

    live.eventually(gone, bool)
