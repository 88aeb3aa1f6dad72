"""Run a real server under load, break it, and compare what was sent with what was counted."""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wsgi_prom.errors import SettingError, WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from wsgi_prom.demo.server import Server

SUMMARY: Final = "Run a real server under load, break it, and compare what was sent with what was counted."
_SERVERS: Final = ("uwsgi", "gunicorn")
_REQUESTS: Final = 4000
# Fewer requests end before a worker can be killed.
_LEAST_REQUESTS: Final = 300
_POLL_SECONDS: Final = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", choices=_SERVERS, help="the server (default: the environment's SERVER, or uwsgi)"
    )
    parser.add_argument(
        "--requests",
        type=_requests,
        default=_REQUESTS,
        metavar="N",
        help=f"how many to send (default: {_REQUESTS})",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave all running afterwards, until Ctrl-C (also KEEP=1)"
    )


def run(arguments: argparse.Namespace) -> int:
    kind = arguments.server or _server()
    keep = arguments.keep or _keep()
    _require(kind)
    # Here and not above: every command imports this module, and only this one needs rich.
    from wsgi_prom.demo.scenario import play  # noqa: PLC0415

    with _interruptible():
        right = play(kind, arguments.requests, keep=_hold if keep else None)
    return 0 if right else 1


def _requests(value: str) -> int:
    if not value.isdecimal() or int(value) < _LEAST_REQUESTS:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from {_LEAST_REQUESTS} up")
    return int(value)


def _server() -> str:
    kind = os.environ.get("SERVER") or _SERVERS[0]
    if kind not in _SERVERS:
        raise SettingError(f"SERVER={kind!r} is not {' or '.join(_SERVERS)}.")
    return kind


def _keep() -> bool:
    value = os.environ.get("KEEP", "")
    if value not in {"", "0", "1"}:
        raise SettingError(f"KEEP={value!r} is not 1, or 0.")
    return value == "1"


def _require(kind: str) -> None:
    missing = [name for name in ("flask", "rich") if find_spec(name) is None]
    from wsgi_prom.demo.server import program  # noqa: PLC0415

    if program(kind) is None:
        missing.append(kind)
    if missing:
        raise WsgiPromError(f"the demo needs {', '.join(missing)}: pip install 'wsgi-prom[demo]'")


def _hold(server: Server, console: Console) -> None:
    console.print(f"Application: http://{server.address}/", soft_wrap=True)
    console.print(f"Metrics:     {server.metrics_url}", soft_wrap=True)
    console.print(f"All of it runs until Ctrl-C, or: kill {os.getpid()}")
    try:
        while server.running:
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        return
    raise WsgiPromError(f"{server.kind} ended by itself.{server.log_tail()}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let other signals end the demo as Ctrl-C does: it has to stop its server."""
    # SIGINT too: a shell without job control makes its background processes ignore it.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
