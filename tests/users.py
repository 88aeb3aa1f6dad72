"""Other users than root: how their processes reach the checkout, and as whom a process runs."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from runner.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

needs_root: Final = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="needs root"
)

# Lays an open folder over a closed one ($1) and what is needed of it (up to --) into that, then runs the rest. Seen by
# nobody outside the mount namespace.
OPEN_FOLDER: Final = """
closed=$1; shift
hold=$(mktemp -d)
mount --rbind "$closed" "$hold"
mount -t tmpfs -o mode=0755 opened "$closed"
while [ "$1" != -- ]; do
    mkdir -p "$1"
    mount --rbind "$hold${1#"$closed"}" "$1"
    shift
done
shift
umount -l "$hold"
rmdir "$hold"
exec "$@"
"""


def for_any_user(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """
    Return *command* so that a server started as root may drop to a user who can still read Python and the checkout.

    Only needed where they lie under a closed folder (a pyenv in /root, mode 0700: uWSGI as www-data ends with "No
    module named 'encodings'"): there the command gets a mount namespace of its own, in which they can be reached.
    """
    words = [os.fspath(word) for word in command]
    needed = sorted({sys.base_prefix, sys.prefix, str(ROOT)})
    closed = {path: folder for path in needed if (folder := closed_folder(Path(path))) is not None}
    for folder in sorted(set(closed.values())):
        kept = [path for path in needed if closed.get(path) == folder]
        words = ["unshare", "--mount", "sh", "-euc", OPEN_FOLDER, "sh", str(folder), *kept, "--", *words]
    return words


def closed_folder(path: Path) -> Path | None:
    """
    Return the outermost folder on the way to *path* that others may not pass, None where there is none.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def user_id(pid: int) -> int:
    """
    Return the effective user id of a process, -1 for one that is gone.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return -1
