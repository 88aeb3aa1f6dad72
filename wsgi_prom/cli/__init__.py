"""The commands `wsgi-prom` and `python -m wsgi_prom`: data on stdout, messages on stderr, one line an error."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = ("demo", "serve", "dump", "check", "password", "reset")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code: 0, 1 where it could not do its work, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        prog="wsgi-prom", description="Prometheus metrics of a WSGI application."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        module = import_module(f"wsgi_prom.cli.{name}")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except WsgiPromError as error:
        print(f"wsgi_prom: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has enough. What Python flushes as it ends goes nowhere, and is no second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
