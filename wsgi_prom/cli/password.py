"""
Make a line for WSGI_PROM_USERS_FILE: a user and a hashed password.

The command asks for the password, or reads it from the first line of stdin if that is not a terminal. It is never an
argument, which any user of the machine could read.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.output import write
from wsgi_prom.errors import WsgiPromError
from wsgi_prom.exporter.passwords import Hashed

if TYPE_CHECKING:
    import argparse

SUMMARY: Final = "Make a line for WSGI_PROM_USERS_FILE: a user and a hashed password."


class PasswordError(WsgiPromError):
    """The name or the password cannot be used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the user")


def run(arguments: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        password = getpass.getpass()
        if password != getpass.getpass("Once more: "):
            raise PasswordError("the two passwords differ. Start again.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise PasswordError("the password is empty. Give one at the prompt, or on stdin.")
    try:
        secret = password.encode()
    except UnicodeEncodeError:
        raise PasswordError("the password is not UTF-8. Give one that is, as Prometheus sends it.") from None
    try:
        line = Hashed.make(secret).line(arguments.name)
    except ValueError:
        raise PasswordError(
            f"NAME {arguments.name!r} cannot be used: no colon or control character, and no blank or # at its start."
        ) from None
    write(f"{line}\n")
    return 0
