"""Remove the metrics of ended processes from a directory that no process uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.cli.arguments import add_directory, directory_of, exists
from wsgi_prom.cli.output import write
from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    path = directory_of(arguments)
    if not exists(path):
        write(f"{path} does not exist yet: nothing to clear\n")
        return 0
    if not path.is_dir():
        raise DirectoryError(
            f"{path} is not a directory. Give the directory that the server's processes share."
        )
    lock_file = directory.prepare(path)
    holders = directory.holders(path, lock_file)
    if holders:
        held = ", ".join(f"{role} by pid {pid or 'of another pid namespace'}" for role, pid in holders)
        raise DirectoryError(f"{path} is in use ({held}). Stop the server first.")
    directory.clear(path, lock_file)
    write(f"{path} is clear\n")
    return 0
