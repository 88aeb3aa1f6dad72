"""Clear a directory that nobody uses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from wsgi_prom.cli.arguments import add_directory, directory_of
from wsgi_prom.errors import DirectoryError
from wsgi_prom.storage import directory

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    path = directory_of(arguments)
    if not path.is_dir():
        raise DirectoryError(f"{path} is not a directory; there is nothing to clear.")
    lock_file = directory.prepare(path)
    holders = directory.holders(path, lock_file)
    if holders:
        held = ", ".join(f"{role} by pid {pid or 'of another namespace'}" for role, pid in holders)
        raise DirectoryError(f"{path} is in use ({held}). Stop the server first.")
    directory.clear(path, lock_file)
    sys.stdout.write(f"{path} is clear\n")
    return 0
