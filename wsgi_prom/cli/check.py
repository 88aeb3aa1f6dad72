"""
Check settings, address, directory and application without starting a server.

1. The check leaves nothing behind: no file, no slot, no socket.
2. It binds the exporter's address for a moment (check_address.py), imports the application (check_application.py), and puts a
   key into etcd for a moment (check_targets.py).
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from wsgi_prom.cli import check_address, check_application, check_targets
from wsgi_prom.cli.arguments import add_json
from wsgi_prom.cli.output import Finding, write, write_json
from wsgi_prom.cli.running import psutil, running_servers
from wsgi_prom.errors import WsgiPromError
from wsgi_prom.exporter.access import Access
from wsgi_prom.metrics import NAMES
from wsgi_prom.settings import PREFIX, Settings, known_variables, unknown_variables
from wsgi_prom.store import directory, directory_files, directory_names, environment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "application",
        nargs="?",
        metavar="MODULE:APP",
        help="the application to import (default: WSGI_PROM_APP). If unknown middleware wraps a Flask application, the "
        "check sends it a GET /, which ends before Flask calls a view or a before_request function",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    findings = list(_findings(arguments.application))
    wrong = any(finding.ok is False for finding in findings)
    if arguments.json:
        write_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        write("".join(map(str, findings)))
    return int(wrong)


def _findings(reference: str | None) -> Iterator[Finding]:
    named = reference is not None
    settings: Settings | None = None
    unknown = unknown_variables(os.environ)
    try:
        settings = Settings.read(known_variables(os.environ), app=reference)
    except WsgiPromError as error:
        yield Finding("settings", False, str(error))
    else:
        reference = settings.app
        where = "no exporter" if settings.bind is None else f"metrics at {settings.bind}"
        yield Finding("settings", not unknown, " ".join(unknown.values()) or f"valid; {where}")
        yield from check_address.findings(settings)
        yield from _access(settings)
        yield from check_targets.findings(settings)
        if settings.bind is not None:
            yield _processes()
    yield from _directory()
    for server in running_servers():
        yield Finding("running", None, str(server))
    yield from check_application.findings(reference, "application" if named else "WSGI_PROM_APP", settings)


def _access(settings: Settings) -> Iterator[Finding]:
    named = [PREFIX + name.upper() for name in ("token_file", "web_config") if getattr(settings, name)]
    try:
        Access(settings)
    except WsgiPromError as error:
        yield Finding("access", False, str(error))
    else:
        if named:
            yield Finding("access", True, f"this user can use the files of {' and '.join(named)}")


def _processes() -> Finding:
    if psutil() is None:
        message = "psutil is not installed: the page has no process_* metrics (CPU time, memory, descriptors)"
        return Finding("processes", None, message, "pip install 'wsgi-prom[processes]'")
    return Finding("processes", True, "psutil reads the process_* metrics")


def _directory() -> Iterator[Finding]:
    path, name = environment.configured(), environment.name()
    if name in NAMES:
        message = f"WSGI_PROM_NAME={name!r} is the name by which processes meet, and changes no metric's name"
        yield Finding("name", None, message, f"set WSGI_PROM_NAMES={name} if that is meant")
    if path is not None and name is not None:
        message = f"WSGI_PROM_NAME={name!r} is not used, since {environment.VARIABLE} names a directory"
        yield Finding("name", None, message, "unset one of the two")
    elif name is not None:
        yield _directory_of_name(name)
        return
    yield _directory_at(path)


def _directory_of_name(name: str) -> Finding:
    path = directory_names.directory_of(name)
    try:
        directory.check(path)
    except WsgiPromError as error:
        if os.path.lexists(path) or not os.access(path.parent, os.W_OK | os.X_OK):
            return Finding("directory", False, str(error))
        return Finding(
            "directory",
            True,
            f"the first process of the name {name} makes {path}, and the last one removes it",
        )
    return Finding("directory", True, f"the processes of the name {name} share {path}, which can be used")


def _directory_at(path: Path | None) -> Finding:
    if path is None:
        base = directory.name_temporary().parent
        if os.access(base, os.W_OK | os.X_OK):
            return Finding(
                "directory", True, f"the server's hook makes one in {base}, and removes it at the end"
            )
        remedy = f"set {environment.VARIABLE} to a directory that the workers can write to"
        return Finding("directory", False, f"this user cannot make one in {base}", remedy)
    path = directory_files.own_directory(path.absolute())
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        if parent == path:
            directory.check(path)
            return Finding("directory", True, f"{path} can be used")
    except WsgiPromError as error:
        return Finding("directory", False, str(error))
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("directory", True, f"the server makes {path} when it starts")
    return Finding("directory", False, f"{path} does not exist, and this user cannot make it in {parent}")
