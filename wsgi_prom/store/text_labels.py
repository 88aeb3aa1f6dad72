"""
The labels of exemplars and Info metrics as texts of a slot: JSON, of any names and values that the client library lets pass.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def dump(labels: Mapping[str, str]) -> bytes:
    # Names and values may be of any type: as texts, which is how a page has them. A lone surrogate in one survives.
    named = {str(name): str(value) for name, value in labels.items()}
    return json.dumps(named, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


@lru_cache(maxsize=4096)  # most are as at the last scrape
def load(text: bytes) -> tuple[tuple[str, str], ...]:
    """Return the labels in *text*, in the order of their names; none of anything that `dump` has not made."""
    try:
        found = json.loads(text.decode("utf-8", "surrogatepass"))
        return tuple(sorted((name, value) for name, value in found.items() if isinstance(value, str)))
    except (ValueError, AttributeError, RecursionError):
        return ()
