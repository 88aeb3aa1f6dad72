"""
Send the metrics of a shared directory every few seconds, where nothing can scrape them. It runs beside the server.

Under systemd, as a daemon of uWSGI's master or in a sidecar, it ends by SIGTERM, and sends once more before that.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.arguments import add_directory, add_login, directory_of, login_of
from wsgi_prom.cli.output import log_as_exporter
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.target import Target
from wsgi_prom.push.login import Login
from wsgi_prom.push.otlp import Otlp, resource
from wsgi_prom.push.pushgateway import Pushgateway
from wsgi_prom.push.pushing import push
from wsgi_prom.push.reader import Reader
from wsgi_prom.push.remote_write import RemoteWrite
from wsgi_prom.push.statsd import UDP_BYTES, UNIX_BYTES, Statsd
from wsgi_prom.push.statsd_lines import TAGS
from wsgi_prom.setting_values import address
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from wsgi_prom.push.sender import Receiver

log = logging.getLogger("wsgi_prom")

_ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
# The job of a scrape is named in prometheus.yml, and may have any name.
_JOB: Final = "wsgi"
# The names of these labels in a resource of OpenTelemetry.
_ATTRIBUTES: Final = {"job": "service.name", "instance": "service.instance.id"}
_OVER_HTTP: Final = ("remote_write", "pushgateway", "otlp")
# Of receivers, what is for them alone.
_OPTIONS_OF: Final = {
    ("statsd",): ("tags", "datagram_bytes"),
    ("pushgateway",): ("grouping",),
    _OVER_HTTP: ("job", "instance", *(field.name for field in dataclasses.fields(Login))),
}
# Of an IP packet.
_MOST_BYTES: Final = 65507


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        help="how often a reading is sent (default: WSGI_PROM_PUSH_SECONDS, or 10)",
    )
    parser.add_argument(
        "--once", action="store_true", help="send one reading, and end: with 1 if it could not be sent"
    )
    _add_statsd(parser)
    _add_http(parser)


def _add_statsd(parser: argparse.ArgumentParser) -> None:
    statsd = parser.add_argument_group("statsd")
    statsd.add_argument(
        "--statsd", metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT or unix:/PATH, of a datagram socket"
    )
    statsd.add_argument(
        "--tags",
        choices=TAGS,
        help=f"how labels are written; none: their values become parts of the name (default: {TAGS[0]})",
    )
    statsd.add_argument(
        "--datagram-bytes",
        type=int,
        metavar="BYTES",
        help=f"how long a datagram is at most (default: {UDP_BYTES}, of unix sockets {UNIX_BYTES})",
    )


def _add_http(parser: argparse.ArgumentParser) -> None:
    http = parser.add_argument_group("over HTTP")
    http.add_argument(
        "--remote-write",
        metavar="URL",
        help="a receiver of Prometheus remote write, such as http://HOST:9090/api/v1/write",
    )
    http.add_argument("--otlp", metavar="URL", help="a receiver of OTLP over HTTP, such as http://HOST:4318")
    http.add_argument("--pushgateway", metavar="URL", help="a Pushgateway, such as http://HOST:9091")
    http.add_argument(
        "--grouping",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a label of the Pushgateway's grouping key, beside job and instance; give each",
    )
    http.add_argument(
        "--job", metavar="NAME", help=f"the label job, and service.name of --otlp (default: {_JOB})"
    )
    http.add_argument(
        "--instance",
        metavar="NAME",
        help="the label instance, and service.instance.id of --otlp (default: the machine's name)",
    )
    add_login(http, "receiver")


def run(arguments: argparse.Namespace) -> int:
    path = directory_of(arguments)
    try:
        settings = Settings.read(push_seconds=arguments.interval)
    except SettingError as error:
        raise SettingError(str(error).replace("push_seconds=", "--interval=")) from None
    log_as_exporter()
    receivers = _receivers(arguments, settings.push_seconds)
    if not receivers:
        raise SettingError(
            "push has nowhere to send to. Give --statsd HOST:PORT, --remote-write URL, --pushgateway URL or --otlp URL."
        )
    _check_unused(arguments)
    if not arguments.once:
        # Before there are threads, which then do not get them either.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    log.info("the metrics of %s are sent to %s", path, ", ".join(receiver.where for receiver in receivers))
    reader = Reader(path, Target(settings.app or ""))
    wait = None if arguments.once else _ends_within
    done = push(reader, receivers, settings.push_seconds, wait)
    return int(arguments.once and not done)


def _ends_within(seconds: float) -> bool:
    """Wait for so many *seconds*. Return whether somebody ends this process meanwhile."""
    return signal.sigtimedwait(_ENDS, seconds) is not None


def _receivers(arguments: argparse.Namespace, seconds: float) -> list[Receiver]:
    """Return where to send to. Raises SettingError."""
    found: list[Receiver] = []
    if arguments.statsd is not None:
        found.append(_statsd(arguments))
    given = {name: getattr(arguments, name) for name in ("job", "instance")}
    for name, value in given.items():
        if value == "":
            raise SettingError(f"--{name}='' is empty. Give a name.")
    login = login_of(arguments)
    over_http = [option for option in _OVER_HTTP if getattr(arguments, option) is not None]
    if login.known and len(over_http) > 1:
        raise SettingError(f"{_shown(over_http)} would all get the same login. Run a command for each.")
    labels = {"job": given["job"] or _JOB, "instance": given["instance"] or socket.gethostname()}
    if arguments.remote_write is not None:
        found.append(RemoteWrite(arguments.remote_write, login, labels, seconds))
    if arguments.pushgateway is not None:
        grouping = labels | dict(map(_label, arguments.grouping))
        found.append(Pushgateway(arguments.pushgateway, login, grouping, seconds))
    if arguments.otlp is not None:
        own = {_ATTRIBUTES[name]: value for name, value in given.items() if value}
        attributes = resource(os.environ, own, {_ATTRIBUTES[name]: value for name, value in labels.items()})
        found.append(Otlp(arguments.otlp, login, attributes, seconds))
    return found


def _check_unused(arguments: argparse.Namespace) -> None:
    """Raise SettingError for options of receivers that are not given."""
    for receivers, options in _OPTIONS_OF.items():
        given = [option for option in options if getattr(arguments, option)]
        if given and not any(getattr(arguments, receiver) is not None for receiver in receivers):
            several = len(given) > 1
            raise SettingError(
                f"{_shown(given)} {'are' if several else 'is'} of {_shown(receivers)}. Give "
                f"{'one of these' if len(receivers) > 1 else 'it'}, or leave {'them' if several else _shown(given)} out."
            )


def _shown(names: Sequence[str]) -> str:
    """Return the options of these *names* for a message."""
    *first, last = (f"--{name.replace('_', '-')}" for name in names)
    return " and ".join([", ".join(first), last] if first else [last])


def _label(given: str) -> tuple[str, str]:
    name, _, value = given.partition("=")
    if not re.fullmatch(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", name) or name in {"job", "instance"} or not value:
        raise SettingError(
            f"--grouping={given!r} is not a label. Give NAME=VALUE; --job and --instance have options of their own."
        )
    return name, value


def _statsd(arguments: argparse.Namespace) -> Statsd:
    try:
        where = address(arguments.statsd)
    except ValueError:
        where = None
    if where is None or not (where.path or where.port):
        raise SettingError(
            f"--statsd={arguments.statsd!r} is not an address. Give HOST:PORT, [IPV6]:PORT or unix:/PATH."
        )
    most = arguments.datagram_bytes
    if most is not None and not 1 <= most <= _MOST_BYTES:
        raise SettingError(f"--datagram-bytes={most} is not a number of bytes. Give 1 to {_MOST_BYTES}.")
    return Statsd(where, arguments.tags or TAGS[0], most)
