"""
The terminal of `wsgi-prom top`: keys, redrawing, and the terminal as it was before, however the program ends.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import sys
import termios
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.live import Live

from wsgi_prom.cli import top_screen
from wsgi_prom.errors import SettingError, WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import NoReturn

    from wsgi_prom.cli.top_screen import Shown
    from wsgi_prom.live.view import View

_SECONDS: Final = 1.0
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)
_ESCAPE: Final = "\x1b"
# An arrow, or another key that has no character.
_NAMED_KEY: Final = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])")


def run(look: Callable[[], View], shown: Shown) -> int:
    """
    Show what *look* returns each second until a key ends it. Raises SettingError without a terminal, and what the first *look*
    raises.
    """
    console = top_screen.console()
    # Not by rich's is_terminal, which FORCE_COLOR sets for a pipe too. A dumb terminal (TERM) cannot move its cursor.
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()) or console.is_dumb_terminal:
        raise SettingError("top draws on a terminal, and this is none. Give --once, or --once --json.")
    # Before anything is drawn: its error is a line.
    view = look()
    looking = _Looking(look)
    with _keys(sys.stdin.fileno()), Live(console=console, screen=True, auto_refresh=False) as live:
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        due = time.monotonic() + _SECONDS
        while True:
            live.update(top_screen.screen(view, shown, console.width, console.height), refresh=True)
            left = None if looking.busy else max(due - time.monotonic(), 0.0)
            ready = select.select([sys.stdin, looking], [], [], left)[0]
            if sys.stdin in ready:
                keys = os.read(sys.stdin.fileno(), 1024)
                if not keys or _press(decoder.decode(keys), shown):
                    return 0
            elif looking in ready:
                try:
                    found = looking.end()
                    shown.problem = ""
                except (WsgiPromError, OSError) as error:
                    # A server that starts again is there again.
                    shown.problem = str(error)
                else:
                    view = view if shown.paused else found
            else:
                due = time.monotonic() + _SECONDS
                if not shown.paused:
                    looking.begin()


class _Looking:
    """
    One call of *look* at a time, in a thread: it may wait for a server for a long time, and the user for nothing. select() knows
    when it is over.
    """

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look
        self._over, self._tell = os.pipe()
        self._found: Future[View] = Future()
        self.busy = False

    def fileno(self) -> int:
        return self._over

    def begin(self) -> None:
        self._found, self.busy = Future(), True
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._found.set_result(self._look())
        except BaseException as error:  # `end` raises it
            self._found.set_exception(error)
        os.write(self._tell, b"\0")

    def end(self) -> View:
        """Return what the call that is over has returned. Raises what it has raised."""
        os.read(self._over, 1)
        self.busy = False
        return self._found.result()


@contextmanager
def _keys(terminal: int) -> Iterator[None]:
    """Get each key as it is pressed, and end as by Ctrl-C on the signals that end a program."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    # A stopped program would leave the screen as it is.
    changed[6][termios.VSUSP] = b"\0"
    handlers = {number: signal.signal(number, end) for number in _ENDS}
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _press(keys: str, shown: Shown) -> bool:
    """Do what *keys* say. Return whether that is to end."""
    for key in _NAMED_KEY.sub("", keys):
        if shown.typed is not None:
            _type(key, shown)
        elif key == "q":
            return True
        elif key == "p":
            shown.paused = not shown.paused
        elif key == "s":
            columns = [column.key for column in shown.table.columns]
            now = columns.index(shown.table.column(shown.sort).key)
            shown.sort = columns[(now + 1) % len(columns)]
        elif key == "r":
            shown.reverse = not shown.reverse
        elif key == "w":
            shown.which = (shown.which + 1) % 3
            shown.sort, shown.reverse = "", False
        elif key == "/":
            shown.typed = ""
    return False


def _type(key: str, shown: Shown) -> None:
    """Take a *key* into the filter that is being typed."""
    typed = shown.typed or ""
    if key in "\r\n":
        shown.filter, shown.typed = typed, None
    elif key == _ESCAPE:
        shown.filter, shown.typed = "", None
    elif key in "\b\x7f":
        shown.typed = typed[:-1]
    elif key.isprintable():
        shown.typed = typed + key
