"""The commands `wsgi-prom` and `python -m wsgi_prom`. Each name in _COMMANDS is a module; an error is one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.cli.output import tell, write
from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = {
    "serve": "Serve the metrics of a shared directory; the hooks start this themselves.",
    "dump": "Print what a scrape would show, as far as the directory tells: not what the exporter asks server and kernel for.",
    "top": "Show requests, routes and workers live in the terminal, from the shared directory or from an exporter.",
    "check": "Check settings, directory and application without starting anything.",
    "metrics": "Print each metric of the package: its type, its labels, what it means, and a query to begin with.",
    "dashboards": "Write Grafana dashboards: server, application, fleet, uWSGI.",
    "rules": "Print recording and alerting rules for Prometheus: saturation, killed workers, error budgets of objectives.",
    "run": "Run a program whose Python processes join those of a server: a command, a cron job, a worker of a queue.",
    "sd": "Follow the targets that are registered in etcd, and write them to a file for Prometheus' file_sd.",
    "push": "Send the metrics of a shared directory every few seconds: to statsd, by remote write, to a Pushgateway, by OTLP.",
    "register": "Keep the targets of an exporter registered; the exporter starts this itself.",
    "reset": "Remove the metrics of ended processes from a directory that no process uses.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return its exit code: 0, 1 if the command failed, 2 for wrong arguments."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="wsgi-prom", description="Prometheus metrics of a WSGI application."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        # A hook starts its exporter by `serve`, which must not depend on the imports of the other commands.
        if name in words:
            module = import_module(f"wsgi_prom.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python flushes stdout again at exit: let that go to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except WsgiPromError as error:
        for line in error.args:
            tell(line)
        return 1
    except OSError as error:
        tell(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return status


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from wsgi_prom import version  # importlib.metadata takes 20 ms

        write(f"{parser.prog} {version.installed()}\n")
        parser.exit()
