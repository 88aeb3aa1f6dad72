"""
Follow the targets that servers have registered in etcd, and write them to a file for Prometheus' file_sd.

Run it beside Prometheus, which reads no etcd itself. The file stays when it ends: Prometheus goes on with the targets that it
knows.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.output import log_as_exporter
from wsgi_prom.discovery.etcd import Etcd
from wsgi_prom.discovery.followed import Followed
from wsgi_prom.discovery.target_file import TargetFile, TargetFileError
from wsgi_prom.errors import SettingError
from wsgi_prom.setting_values import registry
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse

    from wsgi_prom.discovery.targets import Group
    from wsgi_prom.setting_values import Registry

log = logging.getLogger("wsgi_prom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--etcd",
        required=True,
        metavar="URL",
        help="where the servers register: etcd://[USER@]HOST:PORT/PREFIX, etcds:// with TLS",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to keep, such as targets.json")
    parser.add_argument("--once", action="store_true", help="write the targets of now, and end")


def run(arguments: argparse.Namespace) -> int:
    settings = replace(Settings.read(sd=None), sd=(_registry(arguments.etcd),))
    try:
        settings.check_login()
    except SettingError as error:
        raise SettingError(str(error).replace("WSGI_PROM_SD=", "--etcd=")) from None
    path = Path(arguments.out).absolute()
    if path.suffix != ".json" or not path.parent.is_dir():
        raise SettingError(
            f"--out={arguments.out!r} is not a file.json in a directory that exists. Prometheus takes no other name."
        )
    log_as_exporter()
    followed = Followed(Etcd.of(settings.sd[0], settings, "--etcd"))
    file = TargetFile(str(path))
    if arguments.once:
        try:
            file.write(followed.read())
        except TargetFileError as error:
            raise TargetFileError(f"--out={arguments.out!r} {error}.") from error
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    followed.run(_Shown(file, path).show, threading.Event())
    return 0


def _registry(value: str) -> Registry:
    try:
        found = registry(value)
    except (ValueError, TypeError, AttributeError):
        found = None
    if found is None or found.kind != "etcd":
        raise SettingError(
            "--etcd is not a URL such as etcd://HOST:PORT/PREFIX, with the path of a prefix and without a password."
        )
    return found


class _Shown:
    """Writes targets to *file*, and logs how many."""

    def __init__(self, file: TargetFile, path: Path) -> None:
        self._file = file
        self._path = path
        self._told = ""

    def show(self, groups: list[Group]) -> None:
        try:
            self._file.write(groups)
        except TargetFileError as error:
            told, level = f"{self._path} {error}", logging.ERROR
        else:
            told, level = f"{self._path} has {len(groups)} targets", logging.INFO
        if told != self._told:
            self._told = told
            log.log(level, "%s", told)
