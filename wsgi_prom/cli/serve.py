"""
Serve the metrics of a shared directory, as a hook does by itself.

Start it by hand for uWSGI's attach-daemon, systemd, or a sidecar container on a shared volume.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.arguments import add_directory, directory_of, exists
from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.exporter.process.server import serve
from wsgi_prom.exporter.target import Target
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

SUMMARY: Final = "Serve the metrics of a shared directory: what a hook starts by itself."

log = logging.getLogger("wsgi_prom")

_POLL_SECONDS: Final = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--bind", help="HOST:PORT, [IPV6]:PORT or unix:/PATH (default: WSGI_PROM_BIND, or 127.0.0.1:9464)"
    )
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end with this process, and remove a directory made for it"
    )
    parser.add_argument(
        "--application", default="", metavar="NAME", help="what wsgi_prom_target_info says of it"
    )
    parser.add_argument("--server", default="", metavar="NAME", help="likewise")
    parser.add_argument(
        "--launch", type=int, metavar="NUMBER", help="end at once if the server has started another since"
    )
    parser.add_argument(
        "--replace", action="store_true", help="take the place of the exporter that the directory has"
    )


def run(arguments: argparse.Namespace) -> int:
    # Not in the log's form: several servers are told in several lines, to a user at a terminal.
    path = directory_of(arguments)
    # gunicorn's format: a hook's exporter writes to gunicorn's log.
    line = "[%(asctime)s] [%(process)d] [%(levelname)s] wsgi_prom: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=line, datefmt="%Y-%m-%d %H:%M:%S %z")
    try:
        return _serve(arguments, path)
    except WsgiPromError as error:
        log.error("%s", error)
        return 1


def _serve(arguments: argparse.Namespace, path: Path) -> int:
    settings = Settings.read(bind=arguments.bind)
    if settings.bind is None:
        raise SettingError(
            f"{'--bind' if arguments.bind else 'WSGI_PROM_BIND'}=off leaves nothing to serve on. "
            "Give --bind HOST:PORT or --bind unix:/PATH."
        )
    if arguments.parent is None:
        _wait_for(path)
    serve(
        path,
        settings.bind,
        parent=arguments.parent,
        replace=arguments.replace,
        launch=arguments.launch,
        settings=settings,
        target=Target(arguments.application or settings.app or "", arguments.server),
    )
    return 0


def _wait_for(path: Path) -> None:
    """
    Wait until a server has made *path*: an exporter beside servers may be started first.

    It is not made here: a misspelt path would be served, empty, for good, and the workers' user has to own it.
    """
    if exists(path):
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log.warning(
        "%s is not there. Nothing is served until a server makes it; if this is not the directory of one, give another "
        "by --directory or PROMETHEUS_MULTIPROC_DIR",
        path,
    )
    while not exists(path):
        time.sleep(_POLL_SECONDS)
