"""The totals of the server's listen queues, which an exporter leaves in the directory for the next one to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_prom.errors import FormatError
from wsgi_prom.store import exporter_files
from wsgi_prom.store.exporter_files import MOST, QUEUES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class QueueTotal(NamedTuple):
    """
    The *seconds* that connections have waited at the sockets of one name, and their *drops*.

    *seen* is what the kernel last said of the drops of each listener, by inode, which is in them.
    """

    seconds: float
    drops: int
    seen: dict[int, int]


def read(path: Path) -> dict[str, QueueTotal]:
    """Return the totals by name. Raises FormatError for anything but what `write` has written, OSError, DirectoryError."""
    found = exporter_files.read(path, QUEUES)
    try:
        return {name: _total(*total) for name, total in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise FormatError(f"{QUEUES} holds no totals of queues: {error}") from error


def write(path: Path, totals: Mapping[str, QueueTotal]) -> None:
    """Replace the file in the directory *path*, in one step. Raises OSError, DirectoryError, and leaves the former one then."""
    rows = {name: [total.seconds, total.drops, [*total.seen.items()]] for name, total in totals.items()}
    exporter_files.write(path, QUEUES, rows)


def _total(seconds: Any, drops: Any, seen: Any) -> QueueTotal:
    for number in (drops, *(number for pair in seen for number in pair)):
        if type(number) is not int or not 0 <= number < MOST:
            raise ValueError(f"no count: {number!r}")
    if type(seconds) is not float or not 0 <= seconds < MOST:
        raise ValueError(f"no seconds: {seconds!r}")
    return QueueTotal(seconds, drops, dict(seen))
