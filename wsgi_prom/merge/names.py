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


def beside_pid(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return *labels* without a `pid`: an application's own is `exported_pid`, as Prometheus calls it in such a case."""
    names = {label_name(name) for name, _ in labels}
    if "pid" not in names:
        return labels
    other = "exported_pid"
    while other in names:
        other = f"exported_{other}"
    return tuple(sorted((other if label_name(name) == "pid" else name, value) for name, value in labels))
