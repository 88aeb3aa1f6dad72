"""Read /proc: which processes live, who started them, and with what."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """
    The fields of one read of /proc/PID/stat; *started* is in clock ticks since the machine's start.
    """

    pid: int
    parent: int
    session: int
    started: int


def stat_fields(pid: int) -> list[str]:
    """
    Return the fields of /proc/PID/stat after the name, the state first; an empty list for a process that is gone.
    """
    # The name before them may contain blanks and parentheses.
    return _read(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].decode().split()


def pids() -> list[int]:
    """
    Return all processes, zombies included.
    """
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def processes() -> list[Process]:
    """
    Return all processes but zombies, which have ended and wait for their parent to read their status.
    """
    found = ((pid, stat_fields(pid)) for pid in pids())
    return [
        Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))
        for pid, fields in found
        if fields and fields[0] not in {"Z", "X"}
    ]


def living() -> list[int]:
    """
    Return the pids of all processes but zombies.
    """
    return [process.pid for process in processes()]


def parent(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def children(pid: int) -> list[int]:
    """
    Return the children of a process, zombies included. May omit one while another one exits (proc(5)).
    """
    found = []
    # One file for each thread: a child belongs to the thread that forked it.
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return sorted(found)


def session(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[3]) if fields else 0


def cpu_seconds(pid: int) -> float:
    """
    Return the user and system time of a process, without that of its children.
    """
    fields = stat_fields(pid)
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def initial_environment(pid: int) -> bytes:
    """
    Return the environment that a process was started with, its variables separated by zero bytes.
    """
    return _read(f"/proc/{pid}/environ", 1 << 18)


def _read(path: str, most: int) -> bytes:
    """
    Return what is in a file of /proc, nothing if its process is gone. Who waits for processes reads hundreds of them.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    except OSError:
        return b""
    finally:
        os.close(fd)
