"""Watches methods of the client library's classes: what is called after them, and raises nothing into the application."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def watch(kind: type, name: str, look: Callable[..., None]) -> None:
    """Call *look*, with all arguments, the object first, after each call of the method *name* of *kind* that raises nothing."""
    method = getattr(kind, name)

    @wraps(method)
    def watched(*arguments: Any, **keywords: Any) -> Any:
        result = method(*arguments, **keywords)
        with suppress(Exception):
            look(*arguments, *keywords.values())
        return result

    setattr(kind, name, watched)
