"""
Check settings, directory and application without starting anything, and say why a route is `unmatched`.

Nothing is left behind: no file, no slot, no socket. The address is tried for a moment; see listeners.py. The application is
imported. Flask behind unknown middleware is sent a request; see probe.py.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.app_interface import may_be_factory
from wsgi_prom.app_reference import load
from wsgi_prom.cli import address, hook, probe
from wsgi_prom.cli.arguments import add_json
from wsgi_prom.cli.finding import Finding
from wsgi_prom.cli.output import write, write_json
from wsgi_prom.cli.running import running_servers
from wsgi_prom.client import patch
from wsgi_prom.errors import WsgiPromError
from wsgi_prom.exporter.access import Access
from wsgi_prom.exporter.http.tls import Tls
from wsgi_prom.frameworks import detection
from wsgi_prom.settings import PREFIX, Settings, known_variables, unknown_variables
from wsgi_prom.store import directory, directory_files, environment
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

SUMMARY: Final = "Check settings, directory and application without starting anything."
_MARKS = {True: "ok", False: "WRONG", None: "?"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "application",
        nargs="?",
        metavar="MODULE:APP",
        help="the application (default: WSGI_PROM_APP). It is imported. Where unknown middleware stands around a Flask "
        "application, it is sent a GET / too, which ends before Flask calls a view or a before_request function",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    findings = list(_findings(arguments.application))
    wrong = any(finding.ok is False for finding in findings)
    if arguments.json:
        write_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            write(f"{_MARKS[finding.ok]:<5}  {finding.subject}: {finding.message}\n")
            if finding.remedy:
                write(f"{'':<5}  -> {finding.remedy}\n")
    return int(wrong)


def _findings(reference: str | None) -> Iterator[Finding]:
    named = reference is not None
    unknown = unknown_variables(os.environ)
    try:
        settings = Settings.read(known_variables(os.environ), app=reference)
    except WsgiPromError as error:
        yield Finding("settings", False, str(error))
    else:
        reference = settings.app
        where = "no exporter" if settings.bind is None else f"metrics at {settings.bind}"
        yield Finding("settings", not unknown, " ".join(unknown.values()) or f"valid; {where}")
        yield from address.findings(settings)
        yield from _access(settings)
    yield _directory()
    for server in running_servers():
        yield Finding("running", None, str(server))
    if reference is None:
        yield Finding("application", None, "not named", "wsgi-prom check MODULE:APP, or WSGI_PROM_APP")
        yield from hook.findings()
    else:
        yield from _application(reference, "application" if named else "WSGI_PROM_APP")


def _application(reference: str, setting: str) -> Iterator[Finding]:
    try:
        with _harmless():
            app = load(reference, setting)
    except WsgiPromError as error:
        yield Finding("application", False, str(error))
    except (Exception, SystemExit) as error:
        yield Finding(
            "application", False, f"{reference} raises {type(error).__name__} at its import: {error}"
        )
    else:
        if may_be_factory(app):
            # A class is certainly wrong: its call returns no response.
            yield Finding(
                "application",
                False if issubclass(type(app), type) else None,
                f"{reference} looks like a factory, which is called once and returns the application",
                f"if it is, name its call: {reference}()",
            )
        else:
            yield Finding("application", True, f"{reference}, {_kind(app)}")
        yield from hook.findings()
        yield from _routes(app)


def _access(settings: Settings) -> Iterator[Finding]:
    files = ("token_file", "users_file", "tls_cert", "tls_key", "tls_client_ca")
    named = [PREFIX + name.upper() for name in files if getattr(settings, name)]
    if not named:
        return
    try:
        Access(settings)
        Tls.of(settings)
    except WsgiPromError as error:
        yield Finding("access", False, str(error))
    else:
        yield Finding("access", True, f"this user can use the files of {', '.join(named)}")


def _directory() -> Finding:
    path = environment.configured()
    if path is None:
        base = directory.name_temporary().parent
        if os.access(base, os.W_OK | os.X_OK):
            return Finding("directory", True, f"made in {base} by the server's hook, for as long as it runs")
        return Finding("directory", False, f"{base} cannot be written", f"set {environment.VARIABLE}")
    path = directory_files.own_directory(path.absolute())
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        if parent == path:
            directory.check(path)
            return Finding("directory", True, f"{path} can be used")
    except WsgiPromError as error:
        return Finding("directory", False, str(error))
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Finding("directory", True, f"{path} is made when a server starts")
    return Finding("directory", False, f"{path} is not there, and cannot be made in {parent}")


@contextmanager
def _harmless() -> Iterator[None]:
    """Import an application as a server would, and leave nothing behind."""
    # The application's metrics live in this process's memory, whatever PROMETHEUS_MULTIPROC_DIR says.
    current_slot.defer()
    patch.install()
    # A server has made it by now. prometheus-flask-exporter needs it at its import.
    if not os.path.isdir(os.environ.get(environment.VARIABLE, "")):  # noqa: PTH112 - "" is no directory, Path("") is one
        os.environ[environment.VARIABLE] = str(directory.name_temporary().parent)
    # Servers import from their working directory.
    folder = str(Path.cwd())
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, folder)
    try:
        # Not on stdout: what it prints is not part of our output.
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = before


def _kind(app: object) -> str:
    names = dict.fromkeys(framework.name for framework, _ in detection.applications(app))
    return " and ".join(names) or f"no framework's that is known here ({type(app).__name__})"


def _routes(app: Any) -> Iterator[Finding]:
    found = list(detection.applications(app))
    for framework, item in found:
        yield _flask(app, item) if framework.name == "Flask" else _adapter(framework, item)
    if not found:
        # A function may hide the application of any framework that is imported.
        remedies = [f"if it is {framework.name}'s, {framework.remedy}" for framework in detection.unadapted()]
        message = "those that the application gives to wsgi_prom.set_route(environ, template) are seen"
        yield Finding("routes", None, message, "; ".join(remedies))


def _flask(app: Any, item: Any) -> Finding:
    seen = probe.is_seen(app, item)
    if seen:
        return Finding("routes", True, "Flask's are seen as they are")
    if seen is None:
        message = (
            "Flask's are seen as they are, if a request gets there as it came: one for / did not get there"
        )
        return Finding("routes", None, message)
    message = "all are 'unmatched': a middleware around Flask calls it with an environ of its own making"
    return Finding(
        "routes", False, message, "app.wsgi_app = PrometheusMiddleware(app.wsgi_app), before that one"
    )


def _adapter(framework: detection.Framework, item: Any) -> Finding:
    if framework.adapted is None:
        return Finding("routes", True, f"{framework.name}'s are seen as they are")
    try:
        adapted = framework.adapted(item)
    except Exception as error:  # an untested version of the framework may have other attributes
        message = f"{framework.name}'s adapter could not be looked for: {type(error).__name__}: {error}"
        return Finding("routes", None, message, framework.remedy)
    if adapted:
        return Finding("routes", True, f"{framework.name}'s are seen, its adapter is installed")
    message = (
        f"all are 'unmatched': {framework.name} does not say which one took a request without its adapter"
    )
    return Finding("routes", False, message, framework.remedy)
