"""
Write data to stdout, and messages to stderr, one line each.
"""

# Rule 1: no control character of a text from outside (a client's header in a label, a file's name) reaches a terminal.
# Rule 2: a file or a pipe gets exactly the data, in UTF-8 whatever the locale.

from __future__ import annotations

import json
import sys


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
    """Return *text* with all that is not printable (control and format characters, line ends) as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
