"""Names of metrics and labels as a page has them."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name


@lru_cache(maxsize=1024)
def metric_name(name: str) -> str:
    """Return *name* as the page has it. The library lets a newline at the end pass, which would end the line."""
    return str(escape_metric_name(name.replace("\n", "_")))


@lru_cache(maxsize=1024)
def label_name(name: str) -> str:
    """Return *name* as the page has it; see `metric_name`."""
    return str(escape_label_name(name.replace("\n", "_")))
