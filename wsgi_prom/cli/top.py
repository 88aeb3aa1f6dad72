"""
Show a server live in the terminal: its requests, routes and workers, as top shows processes.

It reads the shared directory, or asks an exporter elsewhere (--url). Keys: q quits, p pauses, s sorts, / filters, r reverses.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.arguments import add_directory, add_json, add_login, directory_of, login_of
from wsgi_prom.cli.output import write_json
from wsgi_prom.cli.top_directory import DirectoryFigures
from wsgi_prom.cli.top_url import UrlViews
from wsgi_prom.errors import SettingError
from wsgi_prom.live import tables
from wsgi_prom.live.history import History
from wsgi_prom.push.login import Login

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from wsgi_prom.live.view import View

# Between the two readings of --once. Of thousands of routes there are fewer than one a second: it waits for the next.
_ONCE_SECONDS: Final = 1.0
_ONCE_LOOKS: Final = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--url", metavar="URL", help="ask this exporter, such as http://HOST:9464 or unix:/PATH of its socket"
    )
    add_login(parser, "exporter")
    parser.add_argument(
        "--once", action="store_true", help="print two readings' difference, a second apart, and end"
    )
    add_json(parser)
    parser.add_argument("--sort", metavar="COLUMN", default="", help=f"the column of the routes: {_keys()}")
    parser.add_argument(
        "--filter",
        metavar="WORDS",
        default="",
        help="only routes and workers with these words in their names",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.json and not arguments.once:
        raise SettingError("--json prints one reading. Give --once with it.")
    if arguments.sort and arguments.sort not in _keys().split(", "):
        raise SettingError(f"--sort={arguments.sort!r} is no column. Give one of {_keys()}.")
    look = _source(arguments)
    if arguments.json:
        write_json(_once(look).to_json())
        return 0
    try:
        from wsgi_prom.cli import top_screen, top_terminal  # rich is an extra, and --json needs none
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise SettingError(
            "top needs rich, which is not installed. Run pip install 'wsgi-prom[top]', or give --once --json."
        ) from None
    shown = top_screen.Shown(sort=arguments.sort, filter=arguments.filter)
    if arguments.once:
        top_screen.print_once(_once(look), shown)
        return 0
    return top_terminal.run(look, shown)


def _keys() -> str:
    return ", ".join(column.key for column in tables.ROUTES.columns)


def _source(arguments: argparse.Namespace) -> Callable[[], View]:
    """Return what reads a view. Raises SettingError, DirectoryError."""
    login = login_of(arguments)
    if arguments.url is None:
        if login != Login():
            raise SettingError("A login and certificates are for --url. Give it, or leave them out.")
        return History(DirectoryFigures(directory_of(arguments)).read).look
    if arguments.directory is not None:
        raise SettingError("--url and --directory are two sources. Give one of them.")
    return UrlViews(arguments.url, login).look


def _once(look: Callable[[], View]) -> View:
    view = look()
    for _ in range(_ONCE_LOOKS):
        time.sleep(_ONCE_SECONDS)
        view = look()
        if view.seconds is not None:
            break
    return view
