"""
The bytes of a slot's third file, of texts: exemplars, and what Info metrics say. Only a slot that has a text has the file.

    NAME.texts   0  "wsgitext"    8  version    16  nonce    24  0    32  records, then zeros
    a record     0  checksum    4  capacity    8  column    12  length    16  time    24  value    32  text, then zeros

1. A process writes a whole record in one call, and a reader takes none whose checksum is wrong: it is being written, or its
   process was killed in the middle. (A sequence number that is odd meanwhile stays odd after that, and asks for a mapping.)
2. A record keeps its place and its capacity. A text that outgrows its record gets another one, and the former one is
   free. A column that has two, since a process was killed in between, has the later one.
3. The nonce is that of the slot's values, whose columns the records belong to.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from wsgi_prom.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = 1
_MAGIC: Final = b"wsgitext"
_HEADER: Final = struct.Struct("=8sQQQ")
_RECORD: Final = struct.Struct("=IIIIdd")

HEADER_SIZE: Final = _HEADER.size
# An exemplar of a trace and a span takes 108 bytes.
_SMALLEST: Final = 128
_LARGEST: Final = 65536
# In bytes: of a text, and of all records of a slot, so that a scrape takes no more memory. 32,000 exemplars.
LONGEST_TEXT: Final = _LARGEST - _RECORD.size
LARGEST_FILE: Final = 4 * 1024 * 1024

# The column of a record that is free.
FREE: Final = 2**32 - 1


class Text(NamedTuple):
    """
    A text of a column, *time* (seconds since the epoch) when it was recorded, and of an exemplar its *value*.

    An empty one says that the text is not known: it was too long.
    """

    time: float
    value: float
    text: bytes


class Record(NamedTuple):
    """A record at *offset* of the file. Its text is None if the checksum is wrong."""

    offset: int
    capacity: int
    column: int
    text: Text | None


def pack_header(nonce: int) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, nonce, 0)


def check_header(data: bytes, nonce: int) -> None:
    """Raise FormatError unless *data* is the start of the file of texts that belongs to *nonce*."""
    if not data.startswith(pack_header(nonce)):
        raise FormatError(f"begins with {data[:HEADER_SIZE]!r}, which is no head of these values' texts")


def capacity_of(length: int) -> int:
    """Return the capacity of a record for a text of *length* bytes, up to LONGEST_TEXT."""
    return max(_SMALLEST, 1 << (_RECORD.size + length - 1).bit_length())


def pack(capacity: int, column: int, text: Text) -> bytes:
    """Return a record, as long as its text asks for: what lies behind it, up to the *capacity*, does not count."""
    data = _RECORD.pack(0, capacity, column, len(text.text), text.time, text.value) + text.text
    return crc32(data[4:]).to_bytes(4, sys.byteorder) + data[4:]


def parse(data: bytes, offset: int) -> Record:
    """Return the record at *offset* of *data*, the file. Raises FormatError unless there is one, complete."""
    if offset + _RECORD.size > len(data):
        raise FormatError(f"ends within a record at {offset}")
    checksum, capacity, column, length, time, value = _RECORD.unpack_from(data, offset)
    if not _SMALLEST <= capacity <= _LARGEST or capacity.bit_count() != 1 or offset + capacity > len(data):
        raise FormatError(f"no record of {capacity} bytes is at {offset} of {len(data)}")
    end = offset + _RECORD.size + length
    if end > offset + capacity or crc32(data[offset + 4 : end]) != checksum:
        return Record(offset, capacity, column, None)
    return Record(offset, capacity, column, Text(time, value, data[offset + _RECORD.size : end]))


def records(data: bytes, offset: int = HEADER_SIZE) -> Iterator[Record]:
    """Yield the records of *data*, the file, from that at *offset* on. Raises FormatError for anything else between them."""
    while any(data[offset + 4 : offset + 8]):
        record = parse(data, offset)
        yield record
        offset += record.capacity
