"""
Keep the targets of an exporter registered, in files and in etcd. The exporter starts this itself, with pipes as its stdin and
stdout.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.output import log_as_exporter
from wsgi_prom.discovery import registrar
from wsgi_prom.discovery.targets import Targets
from wsgi_prom.setting_values import address
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, required=True, metavar="PATH", help="the shared directory of the workers"
    )
    parser.add_argument(
        "--address",
        type=address,
        required=True,
        metavar="HOST:PORT",
        help="where Prometheus reaches the exporter",
    )
    parser.add_argument("--scheme", default="http", help="http or https")
    parser.add_argument("--application", default="", metavar="NAME", help="the label application")
    parser.add_argument("--server", default="", metavar="NAME", help="the label server")


def run(arguments: argparse.Namespace) -> int:
    log_as_exporter()
    # This process ends with the exporter, which says how; a signal to all processes of a server comes before that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = Settings.read()
    targets = Targets(
        arguments.directory,
        arguments.address,
        arguments.scheme,
        arguments.application,
        arguments.server,
        settings.targets == "workers",
    )
    registrar.run(targets, settings, sys.stdin.fileno(), sys.stdout.fileno())
    return 0
