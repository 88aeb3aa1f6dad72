"""A bare application in a Python whose garbage collector has other statistics than CPython's, as PyPy's has."""

from __future__ import annotations

import gc

from plain import app

__all__ = ["app"]

gc.get_stats = object  # type: ignore[assignment]
