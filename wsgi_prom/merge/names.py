"""
Names of metrics and labels as a page has them, in the escaping scheme that its client has asked for.

The schemes are those of Prometheus, https://prometheus.io/docs/instrumenting/escaping_schemes/, as the client library
implements them from 0.23 on. 0.22, which works here too, has none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Names of any characters, in quotes. The others make names of letters, digits and underscores of them.
UTF8: Final = "allow-utf-8"
UNDERSCORES: Final = "underscores"
DOTS: Final = "dots"
VALUES: Final = "values"
ESCAPINGS: Final = (UNDERSCORES, UTF8, DOTS, VALUES)

# Names that every Prometheus reads without quotes. Not `$` at the end, which a newline may follow.
_PLAIN_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PLAIN_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@lru_cache(maxsize=4096)
def metric_name(name: str, escaping: str = UNDERSCORES) -> str:
    """Return *name*, of a metric or a sample, as the page has it; without quotes."""
    return _escaped(name, escaping, plain=is_plain_metric(name), colon=True)


@lru_cache(maxsize=4096)
def label_name(name: str, escaping: str = UNDERSCORES) -> str:
    """Return *name*, of a label, as the page has it; without quotes."""
    return _escaped(name, escaping, plain=is_plain_label(name), colon=False)


def is_plain_metric(name: str) -> bool:
    """Return whether *name*, of a metric or a sample, needs no quotes."""
    return _PLAIN_METRIC.fullmatch(name) is not None


def is_plain_label(name: str) -> bool:
    """Return whether *name*, of a label, needs no quotes."""
    return _PLAIN_LABEL.fullmatch(name) is not None


def encodable(text: str) -> str:
    """Return *text* with what has no form in UTF-8, a lone surrogate, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(maxsize=4096)
def possible(labelnames: tuple[str, ...], escaping: str = UTF8) -> bool:
    """Return whether a line of a page can have labels of these names: each has one of its own there, and none is reserved."""
    return len(list(distinct([(name, "") for name in labelnames], escaping))) == len(labelnames)


def distinct(labels: Iterable[tuple[str, str]], escaping: str = UTF8) -> Iterator[tuple[str, str]]:
    """Yield those of *labels* that may stand beside each other on a page: names that differ there, the first of two alike."""
    shown = {"", "__name__"}
    for name, value in labels:
        on_page = label_name(name, escaping)
        # Prometheus takes two underscores at the beginning, which an escaping may make of other characters.
        if on_page not in shown and not name.startswith("__"):
            shown.add(on_page)
            yield name, value


def page_name(name: str, kind: str) -> str:
    """Return the name that a metric of the type *kind* has in queries: a counter's ends in `_total`."""
    return f"{name}_total" if kind == "counter" else name


def without_pid(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return *labels* without a `pid`: an application's own is `exported_pid`, as Prometheus calls it in such a case."""
    names = {label_name(name) for name, _ in labels}
    if "pid" not in names:
        return labels
    other = "exported_pid"
    while other in names:
        other = f"exported_{other}"
    return tuple(sorted((other if name == "pid" else name, value) for name, value in labels))


def _escaped(name: str, escaping: str, *, plain: bool, colon: bool) -> str:
    if escaping == UTF8:
        return encodable(name)
    if not name or (plain and escaping != DOTS):
        return name
    escape = _ESCAPES[escaping]
    kept = [_is_plain(character, first=not at, colon=colon) for at, character in enumerate(name)]
    parts = [escape(character, keep) for character, keep in zip(name, kept, strict=True)]
    return ("U__" if escaping == VALUES else "") + "".join(parts)


def _is_plain(character: str, *, first: bool, colon: bool) -> bool:
    if not character.isascii():
        return False
    return (
        character.isalpha()
        or character == "_"
        or (character.isdigit() and not first)
        or (colon and character == ":")
    )


def _dotted(character: str, keep: bool) -> str:
    if character == ".":
        return "_dot_"
    return character if keep and character != "_" else "__"


def _valued(character: str, keep: bool) -> str:
    if character == "_":
        return "__"
    if keep:
        return character
    return "_FFFD_" if "\ud800" <= character <= "\udfff" else f"_{ord(character):x}_"


_ESCAPES: Final[dict[str, Callable[[str, bool], str]]] = {
    UNDERSCORES: lambda character, keep: character if keep else "_",
    DOTS: _dotted,
    VALUES: _valued,
}
