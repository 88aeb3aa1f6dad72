"""
Serve the metrics of a shared directory: what a hook starts by itself.

By hand for uWSGI's attach-daemon, systemd, or a sidecar container on a shared volume.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from wsgi_prom.cli.arguments import add_directory, directory_of
from wsgi_prom.exporter.server import serve
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--bind", help="HOST:PORT, [IPV6]:PORT or unix:/PATH (default: WSGI_PROM_BIND, or 127.0.0.1:9464)"
    )
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end with this process, and remove a directory made for it"
    )


def run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="wsgi_prom: %(message)s")
    settings = Settings.read(bind=arguments.bind)
    path = directory_of(arguments)
    if settings.bind is not None:
        serve(path, settings.bind, parent=arguments.parent, settings=settings)
    return 0
