"""
Names and bytes of the files that the client library's multiprocess mode writes: one for each type of metric of a process.

    counter_PID.db, histogram_PID.db, summary_PID.db, gauge_MODE_PID.db
    0  used bytes (32 bits)    8  entries: length of the key (32 bits); key, padded to 8; value; time when it was set

1. Only the used bytes are read, and at most MOST_BYTES: a file may be sparse, and of any length.
2. Anything but an entry is a FormatError. A file without entries is not: its process may be making it.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final, NamedTuple

from wsgi_prom.errors import FormatError

_FILE: Final = re.compile(
    r"(?:(counter|summary|histogram)|gauge_((?:live)?(?:all|min|max|sum|mostrecent)))_(.+)\.db"
)

# A million label sets of a counter. More is damage, and would fill the memory.
MOST_BYTES: Final = 2**28


class Origin(NamedTuple):
    """What a file's name says: the type of its metrics, the mode of gauges, and the process."""

    type: str
    mode: str
    pid: str


Entry = tuple[str, float, float]  # a key, its value, and when it was set


def origin(name: str) -> Origin | None:
    """Return what the *name* of a file says, None if the client library gives no such name."""
    match = _FILE.fullmatch(name)
    # The identifier may hold underscores: the library allows any function in the place of os.getpid.
    return Origin(match[1] or "gauge", match[2] or "", match[3]) if match else None


def read_entries(fd: int) -> list[Entry]:
    """Return the entries of the file that is open as *fd*. Raises FormatError, OSError."""
    head = os.pread(fd, 14, 0)
    used = struct.unpack_from("i", head)[0] if len(head) >= 4 else 0
    if used in {0, 8}:
        return []
    size = os.fstat(fd).st_size
    if not 8 < used <= min(size, MOST_BYTES):
        raise FormatError(f"{used} bytes of {size} are used")
    if head[12:] != b'["':
        raise FormatError(f"begins with {head!r}, which is no entry")
    data = os.pread(fd, used, 0)
    entries: list[Entry] = []
    start = 8
    try:
        while start < used:
            (length,) = struct.unpack_from("i", data, start)
            end = start + 4 + length
            if length < 1 or end > used:
                raise FormatError(f"an entry of {length} bytes at {start}, {used} are used")
            # The library adds at least one byte of padding.
            values = end + 8 - (length + 4) % 8
            value, timestamp = struct.unpack_from("dd", data, values)
            entries.append((data[start + 4 : end].decode(), value, timestamp))
            start = values + 16
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError(f"no entry at {start}: {error}") from error
    return entries
