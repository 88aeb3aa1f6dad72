"""
Who has claimed a slot, as its value file tells. It holds where the lock does not: record locks belong to a process, so
that its interpreters do not exclude each other, and to close any descriptor of the lock file drops them all.
"""

# Rule 1: a claimant leaves a slot whose claim is that of somebody living. Where it cannot tell, the lock alone decides.
# Rule 2: whoever finds another's claim in its slot stores nothing more there.

from __future__ import annotations

import os
from binascii import crc32
from pathlib import Path
from typing import Final, NamedTuple

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    ctypes = None  # type: ignore[assignment]

# sys/auxv.h: where the kernel has put 16 random bytes when it started the program.
_AT_RANDOM: Final = 25
# linux/sched.h: set before a process's locks are dropped, and until it is a zombie.
_PF_EXITING: Final = 4


class ClaimedError(Exception):
    """The slot is somebody's who lives, though its lock is free."""


class Claim(NamedTuple):
    """
    The words of a claim in a value file's header, all 0 for a slot that nobody has.

    *nonce* is of this one claim, *started* when its process began (clock ticks after boot), *place* says which boot and
    pid namespace the pid is of, and *program* changes at an exec. What cannot be known is 0.
    """

    nonce: int = 0
    pid: int = 0
    started: int = 0
    place: int = 0
    program: int = 0

    @classmethod
    def new(cls) -> Claim:
        """Return a claim of this process, unlike any other."""
        pid, place = os.getpid(), _place()
        return cls(
            int.from_bytes(os.urandom(8), "big"), pid, _started(pid) if place else 0, place, _program()
        )

    def lives(self) -> bool:
        """
        Return whether the claimant certainly lives: another process, or something else in this one.

        False for one in another pid namespace, and where /proc tells nothing.
        """
        if not self.nonce:
            return False
        own = Claim.new()
        if self.pid == own.pid:  # which had it before this process, perhaps, or before an exec
            return self[2:] == own[2:]
        return self.place == own.place != 0 and self.started == _started(self.pid) != 0


def _place() -> int:
    try:
        # A /proc of another pid namespace tells of other processes.
        if os.readlink("/proc/self") != str(os.getpid()):  # noqa: PTH115 - no path
            return 0
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return crc32(boot) << 32 | Path("/proc/self/ns/pid").stat().st_ino & 0xFFFFFFFF
    except OSError:
        return 0


def _started(pid: int) -> int:
    """Return when the process *pid* began; 0 if it is ending, or cannot be seen (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    ends = fields[0] in {b"Z", b"X"} or int(fields[6]) & _PF_EXITING
    return 0 if ends else int(fields[19])


def _program() -> int:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except AttributeError:  # there is none
        return 0
    getauxval.argtypes, getauxval.restype = (ctypes.c_ulong,), ctypes.c_ulong
    address = getauxval(_AT_RANDOM)
    return int.from_bytes(ctypes.string_at(address, 8), "big") if address else 0
