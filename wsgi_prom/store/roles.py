"""
What a process of a server is that is neither its master nor a worker: a mule, a spooler, a dirty worker.

Such a process holds a record lock on one byte of its role's, which the kernel releases when the process ends. It takes no slot
before it records something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

# Beyond the bytes of slots. A server with more processes of a role shows that many of them.
_FIRST: Final = 1 << 20
_MOST: Final = 16
_ROLES: Final = ("mule", "spooler", "dirty")
_BYTES: Final = {
    role: range(_FIRST + number * _MOST, _FIRST + (number + 1) * _MOST) for number, role in enumerate(_ROLES)
}


def take(path: Path, role: str) -> None:
    """Say that this process has *role* in the server of the directory *path*, until it ends. Raises OSError, DirectoryError."""
    lock_file = LockFile.of(path)
    next((byte for byte in _BYTES[role] if lock_file.acquire(byte)), None)


def holders(lock_file: LockFile) -> dict[int, str]:
    """Return the roles of the living processes that have one, by pid. Those of another pid namespace are left out."""
    found = {pid: role for role, held in _BYTES.items() for _, pid in lock_file.holders(held)}
    found.pop(0, None)
    return found
