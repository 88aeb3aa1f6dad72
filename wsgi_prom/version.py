"""The version of wsgi_prom that is installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def installed() -> str:
    # Read once: at a later scrape the exporter may have no file descriptor left.
    try:
        return version("wsgi-prom")
    except (PackageNotFoundError, OSError):  # a checkout on PYTHONPATH, not installed
        return "unknown"
