"""
Which process has claimed a slot, as the header of its value file says.

A claim tells two owners of one slot apart where the record lock cannot: the interpreters of a process share its locks,
and a process loses them all when it closes any descriptor of the lock file.

1. A process does not take a slot whose claimant lives. Where that is not known, the record lock alone decides.
2. A process that finds another's claim in its slot stores nothing more there.
3. The claim is written after the former owner's gauges were cleared, so that a scrape knows whose they are.
"""

from __future__ import annotations

import os
from binascii import crc32
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from wsgi_prom.store import file_format

# linux/sched.h: set before a process's locks are dropped, and until it is a zombie.
_PF_EXITING: Final = 4


class ClaimedError(Exception):
    """The process that has claimed the slot lives, though the slot's lock is free."""


class Stage(IntEnum):
    """The stage of a worker, as its server's hook tells it. NONE: the process is no worker, or has no hook."""

    NONE = 0
    BOOTING = 1
    SERVING = 2
    STOPPING = 3


class Claim(NamedTuple):
    """
    The words of a claim in a value file's header, all 0 for a slot that nobody has claimed. A word that is not known is 0.

    *nonce* tells interpreters of one process apart. *started*, in clock ticks after boot, tells processes apart that have had
    the same *pid* one after the other. *namespace*, of the boot and the pid namespace, says where *pid* means something.
    *program* changes at an exec, after which a process may go on in the slot that it had (uWSGI's reload). *stage* is a
    `Stage`, which changes while the claim stays.
    """

    nonce: int = 0
    pid: int = 0
    started: int = 0
    namespace: int = 0
    program: int = 0
    stage: int = Stage.NONE

    @classmethod
    def new(cls) -> Claim:
        """Return a claim of this process, unlike any other."""
        pid, known = os.getpid(), namespace()
        started, program = _started(pid) if known else (0, 0)
        return cls(int.from_bytes(os.urandom(8), "big"), pid, started, known, program)

    @classmethod
    def read(cls, header: bytes) -> Claim:
        """Return the claim in the *header* of a value file, which `file_format.unpack_header` accepts."""
        return cls(*file_format.HEADER.unpack_from(header)[file_format.CLAIM])

    def may_be_of(self, pid: int) -> bool:
        """
        Return whether the process *pid*, which holds the slot's lock, may have made this claim.

        False says that it has only just taken the lock: the claim, and the gauges, are those of the owner before it.
        *pid* is 0 where the kernel does not tell it; then, and for a claim of another pid namespace, only a slot that
        nobody has claimed is certain.
        """
        if not self.nonce:
            return False
        return pid in {0, self.pid} or not self.namespace or self.namespace != namespace()

    def lives(self) -> bool:
        """
        Return whether the claimant certainly lives: another process, or another interpreter of this one.

        False for a process in another pid namespace, and where /proc cannot be read.
        """
        if not self.nonce:
            return False
        own = Claim.new()
        if self.pid == own.pid:  # or of an earlier process with this pid, or of this one before an exec
            return self[2:5] == own[2:5]
        return self.namespace == own.namespace != 0 and self.started == _started(self.pid)[0] != 0


def namespace() -> int:
    """Return a number for the boot and the pid namespace, in which a pid is one process at a time; 0 where it is not known."""
    try:
        # /proc may be that of another pid namespace, where the same pid is another process.
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return 0
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return crc32(boot) << 32 | Path("/proc/self/ns/pid").stat().st_ino & 0xFFFFFFFF
    except OSError:
        return 0


def stat_fields(pid: int, file: str = "stat") -> list[bytes]:
    """
    Return what the kernel says of the process *pid*, from its state on (proc_pid_stat(5), field 3). Raises OSError.

    *file* may be `statm` too: sizes in pages, the virtual and the resident one first.
    """
    # One read, unbuffered: 11 us. The program's name, in brackets, may have brackets and spaces in it.
    fd = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)


def _started(pid: int) -> tuple[int, int]:
    """
    Return when the process *pid* began and where its stack is, which each exec chooses anew (proc_pid_stat(5)).

    Both are 0 if it is ending or cannot be seen, and the latter where the kernel chooses no addresses or may not tell it.
    """
    try:
        fields = stat_fields(pid)
    except OSError:
        return 0, 0
    ends = fields[0] in {b"Z", b"X"} or int(fields[6]) & _PF_EXITING
    return (0, 0) if ends else (int(fields[19]), int(fields[25]))
