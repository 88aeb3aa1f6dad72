"""The formats of a page, and which of them a client has asked for by its Accept header."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from wsgi_prom.exporter.responses import create_accept_header
from wsgi_prom.merge.names import ESCAPINGS, UNDERSCORES


class Format(NamedTuple):
    """What a page is written in: its *content_type*, and the *escaping* of names."""

    content_type: str
    openmetrics: bool = False
    escaping: str = UNDERSCORES


def _of_version_1(content_type: str, *, openmetrics: bool) -> dict[str, Format]:
    """Return the formats of a type whose clients say how names are escaped, each by what an Accept header calls it."""
    name = f"{content_type};version=1.0.0"
    shown = f"{content_type}; version=1.0.0; charset=utf-8; escaping="
    formats = {
        f"{name};escaping={escaping}": Format(shown + escaping, openmetrics, escaping)
        for escaping in ESCAPINGS
    }
    return {name: formats[f"{name};escaping={UNDERSCORES}"], **formats}


_TEXT: Final = Format("text/plain; version=0.0.4; charset=utf-8")
_OPENMETRICS: Final = Format("application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics=True)
# Text first: it wins where a client takes anything (`*/*`), such as curl and a browser.
_OFFERS: Final = {
    "text/plain;version=0.0.4": _TEXT,
    "text/plain": _TEXT,
    **_of_version_1("text/plain", openmetrics=False),
    "application/openmetrics-text": _OPENMETRICS,
    **_of_version_1("application/openmetrics-text", openmetrics=True),
}
# WebOb compares parameters in their order. Of others than these, and of older versions, names are escaped by underscores, as
# the client library does it.
_PARAMETERS: Final = re.compile(r";\s*(?:charset|escaping)=[^;,]*")
_ESCAPING: Final = re.compile(rf";\s*escaping=({'|'.join(ESCAPINGS)})\s*(?=[;,]|$)")
_VERSION_1: Final = re.compile(r";\s*version=1\.0\.0(?=\s*(?:[;,]|$))")


@lru_cache(maxsize=64)  # a scraper sends the same one each time
def preferred(accept: str) -> Format:
    """Return the format that the header *accept* prefers; text if none fits or it is not valid."""
    header = ",".join(map(_in_order, accept.split(","))) or "*/*"
    found = create_accept_header(header).acceptable_offers(list(_OFFERS))
    return _OFFERS[found[0][0]] if found else _TEXT


def _in_order(media_range: str) -> str:
    """Return *media_range* with the escaping that counts behind the version, and no other parameter that Prometheus sends."""
    escaping = _ESCAPING.search(media_range)
    media_range = _PARAMETERS.sub("", media_range)
    if escaping is None:
        return media_range
    return _VERSION_1.sub(rf"\g<0>;escaping={escaping[1]}", media_range)
