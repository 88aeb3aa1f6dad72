"""Arguments that several commands take: --directory, --json and a login."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsgi_prom.cli.running import running_servers
from wsgi_prom.errors import DirectoryError
from wsgi_prom.push.login import Login
from wsgi_prom.store import directory_files, directory_names, environment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

T = TypeVar("T")


def add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="PATH",
        help=f"the shared directory (default: {environment.VARIABLE}, that of WSGI_PROM_NAME, or of the only running server)",
    )


def directory_of(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.directory or environment.configured() or environment.announced()
    name = environment.name()
    if path is None and name is not None:
        return _of_name(name)
    return _own(path.absolute()) if path else _only_server().absolute()


def _of_name(name: str) -> Path:
    """Return the directory of *name*. For root: that of the only user who has one."""
    own = directory_names.directory_of(name)
    if own.exists() or os.geteuid() != 0:
        return own
    directories = sorted(own.parent.glob(f"wsgi_prom-*.{name}"))
    return _only(directories, f"{len(directories)} users have a directory of {name}") or own


def _own(path: Path) -> Path:
    """
    Return the directory that servers use for *path* (own_directory). For root: that of the only user who has one below it.
    """
    own = directory_files.own_directory(path)
    if own == path or exists(own) or os.geteuid() != 0:
        return own
    directories = [
        folder
        for folder in sorted(path.glob("wsgi_prom-*"))
        if folder.name == f"wsgi_prom-{folder.lstat().st_uid}"
    ]
    return _only(directories, f"{path} is shared by {len(directories)} users") or own


def _only_server() -> Path:
    servers = running_servers()
    server = _only(servers, f"{len(servers)} servers are running")
    if server is None:
        raise DirectoryError(
            "found no running server of this user. Run the command as the server's user or as root, give --directory, or set "
            f"{environment.VARIABLE}."
        )
    return server.directory


def _only(choices: Sequence[T], problem: str) -> T | None:
    """Return the only one of *choices*, None if there is none. Raises DirectoryError, which says *problem*, if there are more."""
    if len(choices) > 1:
        raise DirectoryError(f"{problem}. Choose one with --directory:", *map(str, choices))
    return choices[0] if choices else None


def exists(path: Path) -> bool:
    """Tell whether *path* exists. Raises NotADirectoryError or PermissionError, which the start of a server cannot change."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_login(parser: argparse._ActionsContainer, peer: str) -> None:
    """Add what a `push.login.Login` is made of, to a *peer* that answers over HTTP."""
    parser.add_argument("--user", default="", metavar="NAME", help="log in as this user")
    parser.add_argument("--password-file", default="", metavar="FILE", help="a file with the user's password")
    parser.add_argument("--token-file", default="", metavar="FILE", help="a file with a bearer token")
    parser.add_argument(
        "--ca-file",
        default="",
        metavar="FILE",
        help=f"the certificates that the {peer}'s is verified by (default: the system's)",
    )
    parser.add_argument("--cert-file", default="", metavar="FILE", help="a client certificate")
    parser.add_argument("--key-file", default="", metavar="FILE", help="the key of the client certificate")


def login_of(arguments: argparse.Namespace) -> Login:
    """Return what `add_login` was given. Raises SettingError."""
    login = Login(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Login)})
    login.check()
    return login
