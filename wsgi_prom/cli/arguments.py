"""The arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.storage import directory

if TYPE_CHECKING:
    import argparse


def add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, metavar="PATH", help=f"the shared directory (default: {directory.VARIABLE})"
    )


def directory_of(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.directory or directory.configured()
    if path is None:
        raise DirectoryError(f"no directory: give --directory, or set {directory.VARIABLE}.")
    return path.absolute()


def exists(path: Path) -> bool:
    """Tell whether *path* is there. Raises what no server's start will mend: NotADirectoryError, PermissionError."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
