"""The arguments that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.running import running_servers
from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory_files, environment

if TYPE_CHECKING:
    import argparse


def add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="PATH",
        help=f"the shared directory (default: {environment.VARIABLE}, or that of the only server that runs)",
    )


def directory_of(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.directory or environment.configured() or environment.announced()
    return _own(path.absolute()) if path else _only_server().absolute()


def _own(path: Path) -> Path:
    """Return the directory that servers told of *path* share. For root that of the only user who has one there."""
    own = directory_files.own_directory(path)
    if own == path or exists(own) or os.geteuid() != 0:
        return own
    found = [
        folder
        for folder in sorted(path.glob("wsgi_prom-*"))
        if folder.name == f"wsgi_prom-{folder.lstat().st_uid}"
    ]
    if len(found) > 1:
        raise DirectoryError(
            f"{path} is shared by {len(found)} users. Choose one by --directory:", *map(str, found)
        )
    return found[0] if found else own


def _only_server() -> Path:
    found = running_servers()
    if len(found) == 1:
        return found[0].directory
    if not found:
        raise DirectoryError(
            f"no server of this user runs here with a directory that wsgi_prom made. Give --directory, or set {environment.VARIABLE}."
        )
    raise DirectoryError(f"{len(found)} servers run. Choose one by --directory:", *map(str, found))


def exists(path: Path) -> bool:
    """Tell whether *path* is there. Raises NotADirectoryError or PermissionError, which no server's start will mend."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
