"""
How many workers of a gunicorn have ended, by reason: a small file of its arbiter's, which has no slot.

1. Only the arbiter writes it, and replaces it in one step.
2. It has the number of the arbiter's byte in the lock file: an arbiter that takes the byte of an ended one goes on with its
   counts, and there are as many files as arbiters were ever there at once.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILE: Final = re.compile(r"wsgi_prom\.exits\.(\d{1,2})(\.new)?", re.ASCII)
# There are 64 signals and 256 exit codes.
_MOST_BYTES: Final = 65536
_MOST: Final = 2**53


def name(number: int) -> str:
    return f"wsgi_prom.exits.{number}"


def own(name: str) -> bool:
    """Return whether a file *name* is one of these, or a new one that is to replace it."""
    return _FILE.fullmatch(name) is not None


def numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the files among *names*, in order."""
    matches = (_FILE.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match and not match[2])


def read(folder: int, number: int) -> dict[str, int]:
    """
    Return the counts by reason of file *number* in the directory *folder*.

    Raises FormatError for anything but what `write` has written, OSError.
    """
    data = directory_files.read_file(name(number), folder, _MOST_BYTES)
    try:
        counts = json.loads(data)
        if not isinstance(counts, dict) or not all(_is_count(count) for count in counts.values()):
            raise FormatError(f"{name(number)} holds no counts")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name(number)} holds no counts: {error}") from error
    return counts


def write(folder: int, number: int, counts: Mapping[str, int]) -> None:
    """Replace file *number* in the directory *folder*, in one step. Raises OSError, and leaves the former one then."""
    directory_files.replace_file(name(number), folder, json.dumps(counts).encode("ascii"))


def _is_count(count: object) -> bool:
    return type(count) is int and 0 <= count < _MOST
