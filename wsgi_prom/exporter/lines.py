"""
The parts of a page's lines, in both formats: heads, names, labels and numbers.

1. Nothing ends its line: every name, label value, help text and unit is escaped or left out.
2. A name that is not plain is in quotes, where the page's escaping lets it be: within the braces, before the labels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client.utils import floatToGoString

from wsgi_prom.merge.names import (
    distinct,
    encodable,
    is_plain_label,
    is_plain_metric,
    label_name,
    metric_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.samples import Exemplar


def number(value: float) -> str:
    # repr is what floatToGoString returns for nearly all values, in a tenth of the time.
    return repr(value) if -1e6 < value < 1e6 else str(floatToGoString(value))  # type: ignore[no-untyped-call]


def escape(value: str) -> str:
    r"""
    Escape as both formats ask: `\\`, `\n`, `\"`.

    A lone surrogate, which a WSGI server may make of a byte of the request, has no UTF-8 form: it is shown as an escape.
    """
    text = value if value.isascii() else encodable(value)
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def pairs(labels: Iterable[tuple[str, str]], escaping: str) -> str:
    """Return *labels* with commas between them, in their order."""
    return ",".join([f'{_label(name, escaping)}="{escape(value)}"' for name, value in labels])


def opening(name: str, escaping: str) -> tuple[str, str]:
    """Return how a line of the sample *name* begins, without labels and up to its first label."""
    shown = metric_name(name, escaping)
    if is_plain_metric(shown):
        return shown, shown + "{"
    quoted = f'{{"{escape(shown)}"'
    return quoted + "}", quoted + ","


def start(name: str, labels: Iterable[tuple[str, str]], escaping: str) -> str:
    """Return a line of the sample *name*, up to its value."""
    plain, labelled = opening(name, escaping)
    found = pairs(labels, escaping)
    return f"{labelled}{found}}} " if found else plain + " "


def head(name: str, typ: str, help_text: str, unit: str, escaping: str, *, openmetrics: bool) -> str:
    """Return the lines of a metric before its samples."""
    text = escape(help_text)
    if not openmetrics:
        text = text.replace(r"\"", '"')
        name += {"counter": "_total", "info": "_info"}.get(typ, "")
        typ = _TEXT_TYPES.get(typ, typ)
    shown = metric_name(name, escaping)
    quoted = shown if is_plain_metric(shown) else f'"{escape(shown)}"'
    lines = f"# HELP {quoted} {text}\n# TYPE {quoted} {typ}\n"
    # Prometheus takes no page with a unit that is not the end of the name, which an escaping may have changed.
    if openmetrics and unit and shown.endswith("_" + unit) and unit.isprintable() and " " not in unit:
        lines += f"# UNIT {quoted} {unit}\n"
    return lines


def exemplar(found: Exemplar, escaping: str) -> str:
    """Return *found* as it stands behind the value of its sample, in OpenMetrics."""
    labels = pairs(sorted(distinct(found.labels.items(), escaping)), escaping)
    timestamp = "" if found.timestamp is None else f" {found.timestamp}"
    return f" # {{{labels}}} {number(float(found.value))}{timestamp}"


_TEXT_TYPES: Final = {
    "unknown": "untyped",
    "info": "gauge",
    "stateset": "gauge",
    # A histogram that may go down, which the format does not have.
    "gaugehistogram": "histogram",
}


@lru_cache(maxsize=4096)
def _label(name: str, escaping: str) -> str:
    shown = label_name(name, escaping)
    return shown if is_plain_label(shown) else f'"{escape(shown)}"'
