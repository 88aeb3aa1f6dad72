"""Mounts that only a server sees, made in a mount namespace of its own, with which they end."""

# Rule 1: nothing is mounted where the tests run. What a test mounts cannot be left behind, however it ends.

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live import LiveServer


def mounted(server: LiveServer, script: str, *arguments: str | Path) -> LiveServer:
    """Have *server*, which is not started yet, run the shell *script* first, in a mount namespace that it then keeps."""
    words = [str(word) for word in arguments]
    start = f'{script}\nshift {len(words)}\nexec "$@"'
    server.command[:0] = ["unshare", "--mount", "sh", "-euc", start, "sh", *words]
    return server


def change(server: LiveServer, *command: str | Path) -> None:
    """Run *command* in the namespace of a running *server*."""
    words = ["nsenter", f"--mount=/proc/{server.pid}/ns/mnt", *map(str, command)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def seen_by(server: LiveServer, path: Path) -> Path:
    """Return the name under which a test finds what a running *server* sees as *path*."""
    return Path(f"/proc/{server.pid}/root{path}")
