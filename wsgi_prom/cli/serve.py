"""
Run the exporter of a shared directory. The hooks start it this way.

Start it by hand under uWSGI's attach-daemon, under systemd, or in a sidecar container on a shared volume.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.arguments import add_directory, directory_of, exists
from wsgi_prom.cli.output import log_as_exporter
from wsgi_prom.errors import SettingError, WsgiPromError
from wsgi_prom.exporter.process.exporter import serve
from wsgi_prom.exporter.target import Target
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory_names

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.exporter.process.exporter import Announce

log = logging.getLogger("wsgi_prom")

_POLL_SECONDS: Final = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--bind", help="HOST:PORT, [IPV6]:PORT or unix:/PATH (default: WSGI_PROM_BIND, or 127.0.0.1:9464)"
    )
    parser.add_argument(
        "--parent",
        type=int,
        metavar="PID",
        help="end with this process, and remove the directory if it was made for it",
    )
    _add_server(parser)
    parser.add_argument(
        "--launch", type=int, metavar="NUMBER", help="end at once if the server has started a later exporter"
    )
    parser.add_argument("--replace", action="store_true", help="replace the exporter that the directory has")
    # A serving process that becomes the supervisor gives itself the socket that it listens on.
    parser.add_argument("--socket", type=int, help=argparse.SUPPRESS)


def _add_server(parser: argparse.ArgumentParser) -> None:
    """Add what the exporter is told of its server."""
    parser.add_argument(
        "--application", default="", metavar="NAME", help="the label application of wsgi_prom_target_info"
    )
    parser.add_argument(
        "--server", default="", metavar="NAME", help="the label server of wsgi_prom_target_info"
    )
    parser.add_argument("--version-of-server", dest="version", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--worker-class", default="", metavar="NAME", help="the label worker_class of wsgi_server_info"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=0,
        metavar="NUMBER",
        help="how many requests a worker serves at a time",
    )
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="an address that the server listens on, for its listen queue; give each",
    )
    parser.add_argument("--stats", default="", help=argparse.SUPPRESS)
    parser.add_argument("--sockets", type=json.loads, default=[], help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    # Before logging is set up: its error is a list of servers, for a user at a terminal.
    path = directory_of(arguments)
    log_as_exporter()
    try:
        return _serve(arguments, path)
    except WsgiPromError as error:
        # A hook's server goes on without its exporter. Without a server, the process that wants one starts another.
        hooked = arguments.parent is not None and arguments.server
        served = (
            " The application is served without metrics until a reload without this mistake" if hooked else ""
        )
        log.error("%s%s", error, served)
        return 1


def _serve(arguments: argparse.Namespace, path: Path) -> int:
    settings = Settings.read(bind=arguments.bind)
    if settings.bind is None:
        raise SettingError(
            f"{'--bind' if arguments.bind else 'WSGI_PROM_BIND'}=off leaves no address to serve on. "
            "Give --bind HOST:PORT or --bind unix:/PATH."
        )
    target = target_of(arguments, settings.app or "")
    if arguments.parent is None and not directory_names.is_own(path):
        _wait_for(path)
    serve(
        path, settings.bind, settings, target, parent=arguments.parent, replace=arguments.replace, launch=arguments.launch,
        inherited=arguments.socket, announce=_announce(settings, target, path),
    )  # fmt: skip
    return 0


def target_of(arguments: argparse.Namespace, application: str = "") -> Target:
    """
    Return what *arguments* tell of the server; without a name, it is that of *application*. Raises SettingError.
    """
    return Target(
        arguments.application or application,
        arguments.server,
        arguments.version,
        arguments.worker_class,
        arguments.concurrency,
        (*[ListeningSocket(*item) for item in arguments.sockets], *_queues(arguments)),
        arguments.stats,
    )


def _announce(settings: Settings, target: Target, path: Path) -> Announce | None:
    """Return what announces the targets, None where nobody is told of them."""
    if not settings.sd:
        return None
    from wsgi_prom.discovery.announcement import announce  # no exporter needs it that tells nobody

    return partial(announce, settings, target, path)


def _queues(arguments: argparse.Namespace) -> list[ListeningSocket]:
    """Return what stands for the addresses of --queue. Raises SettingError for one that cannot be used."""
    # uWSGI sets TCP_DEFER_ACCEPT, with which the kernel counts every connection as a drop.
    deferred = arguments.server.lower() == "uwsgi"
    found = []
    for given in arguments.queue:
        try:
            host, _, port = given.rpartition(":")
            found.append(ListeningSocket.at(host.strip("[]"), int(port))._replace(deferred=deferred))
        except (OSError, ValueError, OverflowError) as error:
            raise SettingError(
                f"--queue={given} is not an address that a server can listen on ({error}). Give HOST:PORT or [IPV6]:PORT."
            ) from None
    return found


def _wait_for(path: Path) -> None:
    """
    Wait until a server has made *path*, since an exporter may start before its server.

    This process does not make it: the workers' user has to own it, and a misspelt path would be served empty forever.
    """
    if exists(path):
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log.warning(
        "%s does not exist; nothing is served until a server makes it. If the path is wrong, give another with --directory "
        "or PROMETHEUS_MULTIPROC_DIR",
        path,
    )
    while not exists(path):
        time.sleep(_POLL_SECONDS)
