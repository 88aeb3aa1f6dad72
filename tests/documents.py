"""
Run the blocks of a document as a reader does: files are written, commands typed in order, and their output compared
with the document's.
"""

# Rule 1: nothing is replaced in a block, but the place of Prometheus' data. Fixed ports are free, since all of it runs in a network of its own.
# Rule 2: what is installed is what the document installs: the package's wheel into an empty environment.

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Commands that do not return, by their program and another word, and what their log says when they are ready.
SERVERS: Final = {
    "gunicorn": r"Booting worker",
    "uwsgi": r"spawned uWSGI worker 1",
    "prometheus": r"Server is ready to receive web requests",
    "prometheus-pushgateway": r"Listening on",
    "redis-server": r"(?i)ready to accept connections",
    "celery worker": r"\[queues\]",
    "wsgi-prom serve": r"metrics at",
    "wsgi-prom push": r"are sent to",
    "wsgi-prom sd": r"has \d+ targets",
    "etcd": r"ready to serve client requests",
    "nginx": r"start worker|using the .* event method",
    "python consumer.py": r"metrics at",
}
_LOOPBACK: Final = """
import fcntl, socket, struct
with socket.socket() as probe:
    fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
"""


class Block(NamedTuple):
    """A fenced block, and the name of the file that its first line may give."""

    language: str
    text: str
    file: str | None


class Step(NamedTuple):
    """A command of a console block, and its output in the document; `matches` says what `...` stands for."""

    command: str
    shown: str


def blocks(document: str) -> list[Block]:
    found = re.findall(r"```(\w+)\n(.*?)```", document, re.DOTALL)
    named = re.compile(r"[#;] (\S+\.\w+)\n")
    return [
        Block(language, text, name[1] if (name := named.match(text)) else None) for language, text in found
    ]


def steps(block: str) -> list[Step]:
    """Return the commands of a console block. A line that begins with a `$` begins a command, others are its output."""
    return [Step(*re.match(r"(.*)\n((?s:.*))", part).groups()) for part in re.split(r"(?m)^\$ ", block)[1:]]  # type: ignore[union-attr]


def matches(shown: str, printed: str) -> bool:
    """Return whether *printed* is *shown*: a line of three dots is any number of lines, and three dots in a line some characters."""
    pattern = "".join(map(_pattern, shown.splitlines(keepends=True)))
    return re.fullmatch(pattern, printed) is not None


def _pattern(line: str) -> str:
    if line == "...\n":
        return r"(?:.*\n)*"
    return ".+".join(map(re.escape, line.split("...")))


def environment(folder: Path, *packages: str) -> Path:
    """Make an environment in *folder* with the wheel of this checkout and *packages*; return its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=300)
    # The pip of this environment: to install another would take longer than all the rest.
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, live.ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("wsgi_prom-*.whl")
    subprocess.run([*pip, "install", wheel, *packages], check=True, timeout=600)
    return folder / "venv" / "bin"


class Reader:
    """
    Somebody who types the commands of a document in the folder *cwd*, with the programs of *programs*.

    In the network of the process *network*, and with *mounts* in its mount namespace too.
    """

    def __init__(self, cwd: Path, programs: Path, network: int, *, mounts: bool = False) -> None:
        self.cwd = self._home = cwd
        self._exported: dict[str, str] = {}
        self._programs = programs
        self._enter = ["nsenter", f"--net=/proc/{network}/ns/net"]
        if mounts:
            # It changes the working directory too.
            self._enter += [f"--mount=/proc/{network}/ns/mnt", f"--wd={cwd}"]
        # A reader who is too early tries again.
        (cwd / ".curlrc").write_text("silent\nretry = 30\nretry-delay = 1\nretry-connrefused\n")
        self.running: dict[str, live.LiveServer] = {}

    def type(self, command: str) -> str:
        """Run *command*, and return what it prints. A server is left running, in place of another of its kind."""
        program, *words = shlex.split(command, comments=True)
        if program == "cd":
            self.cwd = self.cwd / words[0]
            return ""
        if program == "export":
            self._exported |= dict(word.split("=") for word in words)
            return ""
        named = (kind.split() for kind in SERVERS)
        kind = " ".join(next((kind for kind in named if kind[0] == program and {*kind[1:]} <= {*words}), []))
        if not kind:
            done = subprocess.run(
                [*self._enter, "sh", "-euc", command], cwd=self.cwd, check=True,
                env=live.environment(self._environ(), runtime=self.cwd),
                stdout=subprocess.PIPE, text=True, timeout=120,
            )  # fmt: skip
            return done.stdout
        if kind in self.running:
            self.end(kind)
        if kind == "prometheus" and "--enable-feature=agent" not in words:
            # Debian's has one place for all of a machine, with the samples of tests that ran before, and a lock.
            command += " --storage.tsdb.path=data"
        server = live.LiveServer(
            [*self._enter, "sh", "-euc", f"exec {command}"], cwd=self.cwd, env=self._environ(),
            ready=(SERVERS[kind], 1),
        )  # fmt: skip
        self.running[kind] = server.__enter__()
        return ""

    def end(self, kind: str) -> None:
        """End the server of that *kind*."""
        self.running.pop(kind).__exit__(None, None, None)

    def stop(self) -> None:
        """End all that was started."""
        while self.running:
            self.running.popitem()[1].__exit__(None, None, None)

    def _environ(self) -> dict[str, str | None]:
        path = f"{self._programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {
            "PATH": path, "CURL_HOME": str(self._home), "PYTHONPATH": None, "VIRTUAL_ENV": None,
            "WSGI_PROM_BIND": None, **self._exported,
        }  # fmt: skip


@contextlib.contextmanager
def network(*inside: str) -> Iterator[int]:
    """Make a network with a loopback interface alone, and yield the pid of a process in it, which *inside* starts."""
    holder = subprocess.Popen(
        ["unshare", "--net", *inside, sys.executable, "-c", f"{_LOOPBACK}\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"\n":
            raise PermissionError("unshare --net: Operation not permitted")
        yield holder.pid
    finally:
        holder.communicate(b"\n", timeout=60)
