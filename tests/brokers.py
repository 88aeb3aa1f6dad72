"""A real Redis for tests, and what waits in it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Path]:
    """Run a Redis that keeps nothing on disk, and yield its socket."""
    place = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(place), "--save", "", "--dir", str(folder)]
    with live.LiveServer(command, ready=(r"(?i)ready to accept connections", 1)):
        yield place
