"""
The ports at which workers serve their own metrics: a worker holds a record lock on a byte that stands for its slot and its
port.

The kernel releases it when the worker ends, however it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import MAX_SLOTS, SharedSlot

if TYPE_CHECKING:
    from pathlib import Path

# Beyond the bytes of collectors (client/question.py).
_FIRST: Final = 1 << 42
_PORTS: Final = 1 << 16
_BYTES: Final = range(_FIRST, _FIRST + MAX_SLOTS * _PORTS)


class WorkerPort:
    """Says, for this process, that its page is at *port*. For one thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._told: tuple[LockFile, int] | None = None

    def tell(self, path: Path, slot: int) -> None:
        """
        Say it of *slot* in the directory *path*: again and again, since both can change. Raises OSError, DirectoryError.
        """
        lock_file, byte = LockFile.of(path), _FIRST + slot * _PORTS + self._port
        if self._told != (lock_file, byte):
            self.release()
        lock_file.acquire(byte)
        self._told = lock_file, byte

    def release(self) -> None:
        """Say that there is no page at the port any more. Never raises."""
        if self._told is not None:
            lock_file, byte = self._told
            lock_file.release(byte)
        self._told = None


def ports(path: Path) -> dict[int, int]:
    """
    Return the ports of the living workers that serve a page, by slot, those in other pid namespaces too. Raises OSError,
    DirectoryError.
    """
    return {
        (byte - _FIRST) // _PORTS: (byte - _FIRST) % _PORTS for byte, _ in LockFile.of(path).holders(_BYTES)
    }


def own_slot() -> tuple[Path, int] | None:
    """Return the directory and the number of the slot that this process records into, None while it has none."""
    slot = current_slot.slot
    return (slot.path, slot.number) if isinstance(slot, SharedSlot) else None
