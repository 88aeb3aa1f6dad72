"""
Run a program whose Python processes join those of a server, without a change to it.

The program takes the place of this process: its pid, signals, standard streams and exit status are its own. Python finds
hooks/startup/sitecustomize.py by PYTHONPATH, in the program and in each Python that it starts, unless that is told to ignore
the environment (-E, -I) or `site` (-S).
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
from typing import NoReturn

from wsgi_prom.cli.output import tell
from wsgi_prom.hooks import joined_process, startup
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory_names, environment
from wsgi_prom.store.shared_directory import shared_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", default="task", help="the label role of its processes (default: task)")
    parser.add_argument("--name", help="the name that the server has too (default: WSGI_PROM_NAME)")
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the program and its arguments"
    )


def run(arguments: argparse.Namespace) -> int:
    program = arguments.program[arguments.program[:1] == ["--"] :]
    if not program:
        tell("no command is given: wsgi-prom run -- COMMAND ...")
        return 2
    joined_process.check_role(arguments.role)
    settings = Settings.read(name=arguments.name)
    if settings.name and shared_directory() is None:
        joined_process.warn_of_unserved(directory_names.directory_of(settings.name))
    environ = environment.of_program(arguments.role, arguments.name, startup.__path__[0])
    # Python ignores them, and an ignored signal stays so across an exec: `subprocess` does the same.
    for number in signal.SIGPIPE, signal.SIGXFSZ:
        signal.signal(number, signal.SIG_DFL)
    try:
        _execute(program, environ)
    except OSError as error:
        tell(f"{program[0]}: {error.strerror}")
        # As a shell has it.
        return 127 if isinstance(error, FileNotFoundError) else 126


def _execute(program: list[str], environ: dict[str, str]) -> NoReturn:
    try:
        os.execvpe(program[0], program, environ)
    except OSError as error:
        script = shutil.which(program[0])
        if error.errno != errno.ENOEXEC or script is None:
            raise
    # A script without #!, as a shell runs it.
    os.execve("/bin/sh", ["sh", "--", script, *program[1:]], environ)
