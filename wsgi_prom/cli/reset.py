"""Clear a directory that nobody uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.arguments import add_directory, directory_of, exists
from wsgi_prom.cli.output import write
from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory

if TYPE_CHECKING:
    import argparse

SUMMARY: Final = "Clear a directory that nobody uses."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    path = directory_of(arguments)
    if not exists(path):
        # Before the first start of a server that makes it.
        write(f"{path} is not there yet: nothing to clear\n")
        return 0
    if not path.is_dir():
        raise DirectoryError(f"{path} is not a directory. Name the one that the server's processes share.")
    lock_file = directory.prepare(path)
    holders = directory.holders(path, lock_file)
    if holders:
        held = ", ".join(f"{role} by pid {pid or 'of another namespace'}" for role, pid in holders)
        raise DirectoryError(f"{path} is in use ({held}). Stop the server first.")
    directory.clear(path, lock_file)
    write(f"{path} is clear\n")
    return 0
