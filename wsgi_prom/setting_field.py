"""A field of the settings: how its value is read, and what messages and docs/settings.md say of it."""

from __future__ import annotations

import dataclasses
from typing import Any


def setting(
    section: str, default: Any, parse: Any, right: str, text: str, *, shown: str = "", keyword: bool = True
) -> Any:
    """
    Return a field. *parse* takes a variable's text or a keyword's value; error messages describe valid values by *right*.

    docs/settings.md shows *text* in *section*, and *shown* as the default. *keyword*: whether it is a keyword of the
    middleware; the other settings belong to the server or the exporter.
    """
    known = {"parse": parse, "right": right, "section": section, "text": text, "shown": shown}
    return dataclasses.field(default=default, metadata={**known, "keyword": keyword})
