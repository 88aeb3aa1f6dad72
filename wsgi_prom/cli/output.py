"""
Output of the commands: data to stdout, messages to stderr, one line each.

1. No control character of a text from outside (a client's header in a label, a file's name) reaches a terminal.
2. A file or a pipe gets exactly the data, in UTF-8 whatever the locale.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A result of `wsgi-prom check`. *ok* is None where the check cannot know."""

    subject: str
    ok: bool | None
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = {True: "ok", False: "WRONG", None: "?"}[self.ok]
        remedy = f"{'':<5}  -> {self.remedy}\n" if self.remedy else ""
        return f"{mark:<5}  {self.subject}: {self.message}\n{remedy}"


def write(text: str) -> None:
    """Write *text*, which is data, to stdout."""
    if sys.stdout.isatty():
        content = "\n".join(map(printable, text.split("\n"))).encode(sys.stdout.encoding, "backslashreplace")
    else:
        content = text.encode(errors="backslashreplace")
    sys.stdout.flush()
    sys.stdout.buffer.write(content)


def write_json(data: object) -> None:
    """Write *data* to stdout as JSON."""
    # json escapes all but ASCII, and every control character but DEL.
    write(json.dumps(data, indent=2).replace("\x7f", "\\u007f") + "\n")


def tell(message: str) -> None:
    """Write *message* to stderr, as one line."""
    sys.stderr.write(f"wsgi_prom: {printable(message)}\n")


def printable(text: str) -> str:
    """Return *text* with every control or format character and line end as a backslash escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def log_as_exporter() -> None:
    """Log to stderr, in gunicorn's format: an exporter that the hook starts writes to gunicorn's log."""
    line = "[%(asctime)s] [%(process)d] [%(levelname)s] wsgi_prom: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=line, datefmt="%Y-%m-%d %H:%M:%S %z")
