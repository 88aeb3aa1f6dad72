"""Read /proc: which processes live, who started them, and with what."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def stat_fields(pid: int) -> list[str]:
    """
    Return the fields of /proc/PID/stat after the name, the state first; an empty list for a process that is gone.
    """
    with suppress(OSError):
        # The name before them may contain blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def pids() -> list[int]:
    """
    Return all processes, zombies included.
    """
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def living() -> list[int]:
    """
    Return all processes but zombies, which have ended and wait for their parent to read their status.
    """
    return [pid for pid in pids() if stat_fields(pid)[:1] not in ([], ["Z"], ["X"])]


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
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""
